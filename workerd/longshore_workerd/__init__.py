"""workerd: the daemon on each machine that runs what the controller says this machine should hold."""
