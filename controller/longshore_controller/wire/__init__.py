"""The border: generated messages from and to the core's values. All validation of shape is here.

`records` what is stored and shown; `submission` what users send; `conversation` what workers say.
"""
