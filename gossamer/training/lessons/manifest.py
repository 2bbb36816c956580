"""`lessons.json`: what a folder of lessons declares, and which of its shards are complete."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gossamer.data.tokens import start_tokens
from gossamer.errors import FormatError
from gossamer.files import write_json
from gossamer.training.lessons.answers import Form, Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST_NAME = "lessons.json"
NOT_OF_THE_RUN = {"gossamer_version", "finished", "seconds", "shards"}
"""What two runs that give the same lessons may differ in."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1, lt=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TeacherRecord(_Record):
    """A model that gave answers."""

    name: str
    sha256: Sha256
    """Of its weights, as `parent.sha256` in the manifests of compressed folders."""
    engine: str
    activations: str


class ShardRecord(_Record):
    """A complete file."""

    file: Annotated[str, Field(pattern=r"^lessons-\d{5}\.safetensors$")]
    windows: Positive
    sha256: Sha256


class Manifest(_Record):
    """All of `lessons.json`."""

    format_version: Literal[1] = 1
    gossamer_version: str
    finished: bool = False
    teachers: Annotated[list[TeacherRecord], Field(min_length=1)]
    tokenizer_sha256: Sha256
    text_sha256: Sha256
    """Of the token ids of all windows, in their order."""
    text: list[str]
    """Names of the sources."""
    vocabulary: Positive
    kind: Kind
    count: Positive
    """Ids kept of each answer: k, or the number of samples."""
    level_bits: int
    length: Positive
    windows: Positive
    start: list[int]
    """Tokens that every window opens with."""
    seed: int
    seconds: float = 0.0
    shards: list[ShardRecord] = []

    @model_validator(mode="after")
    def _fits(self) -> "Manifest":
        if self.kind == "top-k" and self.count > self.vocabulary:
            raise ValueError(f"k of {self.count} exceeds the vocabulary of {self.vocabulary}")
        if self.level_bits != self.form.level_bits:
            raise ValueError(f"level_bits: expected {self.form.level_bits}, got {self.level_bits}")
        if self.windows_done > self.windows or (self.finished and self.windows_done != self.windows):
            raise ValueError(f"windows: the shards hold {self.windows_done} of {self.windows}")
        return self

    @property
    def form(self) -> Form:
        return Form(self.kind, self.count, self.vocabulary)

    @property
    def windows_done(self) -> int:
        return sum(shard.windows for shard in self.shards)

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a stopped run to go on."""
        return self.model_dump(mode="json", exclude=NOT_OF_THE_RUN | {"text"})

    def with_shard(self, shard: ShardRecord, seconds: float) -> "Manifest":
        return self.model_copy(update={"shards": [*self.shards, shard], "seconds": seconds})

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST_NAME, self.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """Return what `lessons.json` of the folder says; FormatError if it cannot be what was written."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FormatError(
            f"{folder}: no {MANIFEST_NAME} here. Expected a folder that `gossamer teach` wrote."
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, told["loc"])) or "the file"
        raise FormatError(
            f"{path}: {where}: {told['msg']:.200}. It is damaged, or of another version of Gossamer: teach again."
        ) from error


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the SHA-256 of which token has which id, and of what a text opens with: that is what lessons rest on."""
    entries = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    text = json.dumps([entries, start_tokens(tokenizer)], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
