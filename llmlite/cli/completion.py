"""Print a script that completes llmlite's commands, options, models and files
in a shell. It is made from the same definitions as --help."""

from __future__ import annotations

import argparse

from llmlite.terminal import say

HELP = "complete commands in bash, zsh or fish"
EXAMPLES = """\
examples:
  llmlite completion bash >> ~/.bash_completion
  source <(llmlite completion zsh)                  in ~/.zshrc, after compinit
  llmlite completion fish > ~/.config/fish/completions/llmlite.fish

Only models that are bundled or can be pulled are completed by name.
"""
SHELLS = ("bash", "zsh", "fish")
FILE = "<file>"  # means "any file" among the words that complete
Words = dict[str, dict[str, list[str]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell to print a script for")


def run(options: argparse.Namespace) -> int:
    from llmlite.cli import build_parser

    say({"bash": bash, "zsh": zsh, "fish": fish}[options.shell](tree(build_parser())), end="")
    return 0


def tree(parser: argparse.ArgumentParser) -> Words:
    """Return the words that complete each command's path, such as "bench env".

    The entry "" has the words that may come next: commands, options, choices, models, and `FILE` for a file.
    Every option that takes a value has its own entry: the words that its value may be, or none if any value
    is allowed.
    """
    found: Words = {}
    _visit(parser, "", found)
    return found


def _visit(parser: argparse.ArgumentParser, path: str, found: Words) -> None:
    words = found[path] = {"": []}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words[""] += list(action.choices)
            for name, sub in action.choices.items():
                _visit(sub, f"{path} {name}".strip(), found)
        elif action.option_strings:
            words[""] += action.option_strings
            if action.nargs != 0:
                words |= {option: _values(action) for option in action.option_strings}
        else:
            words[""] += _values(action)


def _values(action: argparse.Action) -> list[str]:
    """Return the words that an argument or an option's value may be."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.dest in ("model", "draft", "file", "models"):
        from llmlite.catalog import PACKAGED

        lookup = ["prompt-lookup"] if action.dest == "draft" else []
        return ["tales", "tales:Q8_0", "tales:Q4_0", *PACKAGED, *lookup, FILE]
    if action.type is None and (not action.option_strings or action.metavar is not None):
        return [FILE]
    return []


def _cases(words: Words, indent: str) -> list[str]:
    """Return the arms of a `case "$at|$option"` that sets `offered`. Bash and zsh share the syntax."""
    lines = []
    for path, entries in words.items():
        for option, values in entries.items():
            lines.append(f'{indent}"{path}|{option}") offered="{" ".join(values)}" ;;')
    return lines


def _path_walk(words: Words) -> str:
    """Return a shell pattern of all command paths."""
    return "|".join(f'"{path}"' for path in words if path)


BASH = """\
# llmlite completion bash
_llmlite() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" at="" next offered="" i word
    local colon=""
    # bash splits words at ":", so join "tales:Q4_0" again
    if [[ $cur == : ]]; then colon="$prev:"; cur=""
    elif [[ $prev == : && COMP_CWORD -ge 2 ]]; then colon="${{COMP_WORDS[COMP_CWORD-2]}}:"; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        next="${{at:+$at }}${{COMP_WORDS[i]}}"
        case "$next" in {paths}) at="$next" ;; esac
    done
    local option=""
    [[ $prev == -* ]] && option="$prev"
    case "$at|$option" in
{cases}
        *) option="" ; case "$at|" in
{plain}
        esac ;;
    esac
    COMPREPLY=()
    if [[ " $offered " == *" {file} "* ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r word; do COMPREPLY+=("${{word#"$colon"}}"); done < <(compgen -f -- "$colon$cur")
    fi
    for word in $(compgen -W "${{offered//{file}/}}" -- "$colon$cur"); do
        if [[ $cur == -* || $word != -* ]]; then COMPREPLY+=("${{word#"$colon"}}"); fi
    done
    return 0
}}
complete -F _llmlite llmlite
"""


def bash(words: Words) -> str:
    """Return the script for bash."""
    return _fill(BASH, words)


def zsh(words: Words) -> str:
    """Return the script for zsh: the one for bash, run by zsh's own bashcompinit."""
    start = "autoload -Uz bashcompinit && bashcompinit\n"
    return start + _fill(BASH, words).replace("# llmlite completion bash", "# llmlite completion zsh")


def _fill(script: str, words: Words) -> str:
    cases = _cases(words, " " * 8)
    plain = _cases({path: {"": entries[""]} for path, entries in words.items()}, " " * 8)
    return script.format(paths=_path_walk(words), cases="\n".join(cases), plain="\n".join(plain), file=FILE)


def fish(words: Words) -> str:
    """Return the script for fish: one rule for each word."""
    lines = ["# llmlite completion fish", "complete -c llmlite -f"]
    for path, entries in words.items():
        names = path.split()
        deeper = {
            p.split()[len(names)] for p in words if p and p.split()[: len(names)] == names and p != path
        }
        condition = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in names)
        if deeper:
            no = f"not __fish_seen_subcommand_from {' '.join(sorted(deeper))}"
            condition = f"{condition}; and {no}" if condition else no
        rule = f"complete -c llmlite -n '{condition}'" if condition else "complete -c llmlite"
        plain = [word for word in entries[""] if not word.startswith("-") and word != FILE]
        if plain:
            lines.append(f"{rule} -a '{' '.join(plain)}'")
        if FILE in entries[""]:
            lines.append(f"{rule} -F")
        for option in (word for word in entries[""] if word.startswith("-")):
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            values = entries.get(option)
            named = " ".join(value for value in values or [] if value != FILE)
            takes = "" if values is None else " -r" + (" -F" if FILE in values else "")
            lines.append(f"{rule} {flag}{takes}" + (f" -a '{named}'" if named else ""))
    return "\n".join(lines) + "\n"
