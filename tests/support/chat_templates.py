"""List chat templates that use every way of Jinja to put a message into its markup."""

from __future__ import annotations

from tests.support.tiny_models import CHATML

# Each puts a message into its own markup in a different way. [[ and ]] are the loop over messages.
FORMS = {
    "plus": "[[{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}]]",
    "tilde": "[[{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>' }}]]",
    "role": "[[{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}]]",
    "percent": "[[{{ '<|im_start|>%s\n%s<|im_end|>' % (m.role, m.content) }}]]",
    "named": "[[{{ '<|im_start|>%(c)s<|im_end|>' % {'c': m.content} }}]]",
    "format": "[[{{ '<|im_start|>{}\n{}<|im_end|>'.format(m.role, m.content) }}]]",
    "filter": "[[{{ '<|im_start|>%s<|im_end|>' | format(m.content) }}]]",
    "replace": "[[{{ '<|im_start|>@<|im_end|>'.replace('@', m.content) }}]]",
    "replaced": "[[{{ '<|im_start|>@<|im_end|>' | replace('@', m.content) }}]]",
    "join": "[[{{ ['<|im_start|>', m.content, '<|im_end|>'] | join }}]]",
    "joined": "[[{{ '<|im_end|>'.join([m.content, '<|im_start|>']) }}]]",
    "attribute": "{{ '<|im_start|>' ~ (messages | join('<|im_end|>', attribute='content')) }}",
    "macro": "{% macro t(x) %}<|im_start|>{{ x }}<|im_end|>{% endmacro %}[[{{ t(m.content) | trim }}]]",
    "set": "[[{% set x %}<|im_start|>{{ m.content }}{% endset %}{{ x + '<|im_end|>' }}]]",
    "list": "{% set ns = namespace(out=[]) %}[["
    "{% set ns.out = ns.out + ['<|im_start|>', m.content, '<|im_end|>'] %}]]{{ ns.out | join('') }}",
    "cut": "[[<|im_start|>{{ m.content.split('</think>')[-1].strip()[:500] }}<|im_end|>]]",
    "letters": "[[<|im_start|>{% for c in m.content %}{{ c }}{% endfor %}<|im_end|>]]",
    "lower": "[[<|im_start|>{{ m.content | lower | trim }}<|im_end|>]]",
    "json": "[[<|im_start|>{{ m | tojson }}<|im_end|>]]",
    "python": "[[<|im_start|>{{ m }}{{ [m.content] }}<|im_end|>]]",
    "indent": "[[<|im_start|>{{ m.content | indent(2) }}<|im_end|>]]",
    "lines": "[[<|im_start|>{{ m.content.splitlines() | map('trim') | join('\n') }}<|im_end|>]]",
    "taken out": "[[<|im_start|>{{ m.content.replace('<think>', '') }}<|im_end|>]]",
    "partition": "[[<|im_start|>{{ m.content.partition('|')[0] }}|"
    "{{ m.content.partition('|')[2] }}<|im_end|>]]",
    "title": "[[<|im_start|>{{ m.content | title }}{{ m.content.title() }}<|im_end|>]]",
    "centre": "[[<|im_start|>{{ m.content.center(90) ~ m.content | center(9) }}<|im_end|>]]",
    "chatml": CHATML,
}

OWN = {
    name: form.replace("[[", "{% for m in messages %}").replace("]]", "{% endfor %}")
    for name, form in FORMS.items()
}
