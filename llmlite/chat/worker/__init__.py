"""The process in which chat templates run.

A prompt consists of the template's own text and of text from the messages. Only the template's own may end a
turn. So each string of a request becomes a Text, which records for each character whether it is the
template's own, through all operations of the template.

| file | content |
|---|---|
| `__main__.py` | the program: requests in, answers out, limits on memory and time |
| `sandbox.py` | Jinja's sandbox and filters, and the rendering |
| `messages.py` | the variables that a template gets from a request |
| `given.py` | strings that record the origin of each character |
"""
