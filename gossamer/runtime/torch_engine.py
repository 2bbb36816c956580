"""Models that transformers runs, with the face of the native engine: tokens in, tokens out as they come."""

from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from gossamer.errors import GossamerError, RunError
from gossamer.runtime.sequence import Sampling
from gossamer.runtime.settings import ENCODER_DECODER


class TorchEngine:
    """A model in transformers, which is told everything about generation by the caller and nothing by its folder."""

    def __init__(self, model: PreTrainedModel, where: str, said: Mapping[str, Any]):
        """Take over `model`: its generation config is replaced, its outputs are looked at.

        `said`: what the model says of generation; of it the ids that encoder-decoders begin and end with are used.
        """
        self.model = model
        self.where = where
        model.generation_config = GenerationConfig()
        self._ids = {name: said[name] for name in ENCODER_DECODER if name in said}
        model.register_forward_hook(self._refuse_broken_logits)

    def generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
    ) -> Iterator[int]:
        """Yield up to `max_tokens` tokens that continue the prompt; one of `stops` comes last and ends it.

        The model runs in a thread of its own. Whoever stops listening ends it, after the token that it is at.
        RunError: the model fails, or its logits are NaN or infinite.
        """
        config = self._config(max_tokens, sampling or Sampling(), sorted(stops))
        if sampling is not None and sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        ids_1T = torch.tensor([list(prompt)])
        tokens, stopped = _Tokens(), Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                with torch.inference_mode():
                    self.model.generate(
                        input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=config,
                        streamer=tokens,
                        stopping_criteria=[lambda ids, _scores: torch.full((len(ids),), stopped.is_set())],
                    )  # fmt: skip
            except BaseException as error:
                failures.append(error)
                tokens.end()

        thread = Thread(target=run, name="gossamer-generate", daemon=True)
        thread.start()
        try:
            yield from iter(tokens.queue.get, None)
        finally:
            stopped.set()
            thread.join()
        if failures and isinstance(failures[0], GossamerError):
            raise failures[0]
        if failures:
            raise RunError(f"{self.where}: generation failed: {failures[0]}") from failures[0]

    def _config(self, max_tokens: int, sampling: Sampling, stops: list[int]) -> GenerationConfig:
        settings: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            names = ("temperature", "top_k", "top_p", "min_p")
            settings = {"do_sample": True, **{name: getattr(sampling, name) for name in names}}
        return GenerationConfig(
            max_new_tokens=max_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=stops or None,
            pad_token_id=stops[0] if stops else 0,  # one sequence: never written, but asked for
            **settings,
            **self._ids,
        )

    def _refuse_broken_logits(self, _model: object, _inputs: object, outputs: object) -> None:
        logits = getattr(outputs, "logits", None)
        if logits is not None and not bool(torch.isfinite(logits[:, -1]).all()):
            raise RunError(
                f"{self.where}: the logits are NaN or infinite: the weights are damaged, or too large for this "
                "arithmetic."
            )


class _Tokens(BaseStreamer):
    """Takes what `generate` writes: first the prompt, then token by token; None ends it."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[int | None] = SimpleQueue()
        self._in_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if not self._in_prompt:
            for token in value.reshape(-1).tolist():
                self.queue.put(token)
        self._in_prompt = False

    def end(self) -> None:
        self.queue.put(None)
