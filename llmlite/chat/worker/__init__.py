"""The process in which chat templates run.

A prompt is made of the template's own text and of what the messages say. Only the first may end a turn, so
each string that comes in with a request is a Text, which remembers which of its characters are the template's
own and which aren't, through all that a template does with it.

| file | what it has |
|---|---|
| `__main__.py` | the program: requests in, answers out, limits on memory and time |
| `sandbox.py` | Jinja's sandbox and filters, and the rendering |
| `messages.py` | what a template gets of a request |
| `given.py` | strings that remember whose each character is |
"""
