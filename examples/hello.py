import longshore as hp
backend = hp.BatchBackend('test') # replace 'test' with your own billing project
p = hp.Pipeline(backend=backend, name='test')
t = p.new_task(name='hello')
t.command('echo "hello world"')
p.run(open=True)
