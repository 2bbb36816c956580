"""Compress a sentence encoder and see how far the embeddings of real sentences move.

python examples/encoder_embeddings.py ENCODER TEXT OUT_FOLDER [RECIPE]
"""

import sys

import gossamer
from gossamer.data.sources import read_documents
from gossamer.evaluation.evaluate import first_sentences
from gossamer.evaluation.quality.embeddings import embedding_cosine, mean_pooled_embeddings


def main(encoder: str, text: str, out: str, recipe: str = "sparse50-int4") -> None:
    gossamer.compress(encoder, recipe, out=out, text=text)
    dense, tokenizer = gossamer.load(encoder)
    sparse, _ = gossamer.load(out)
    sentences = first_sentences(read_documents(text), 200)
    cosine_S = embedding_cosine(
        mean_pooled_embeddings(sparse, tokenizer, sentences),
        mean_pooled_embeddings(dense, tokenizer, sentences),
    )
    sys.stdout.write(f"{len(sentences)} sentences: cosine {cosine_S.mean():.4f} on average\n")
    for index in cosine_S.argsort()[:3].tolist():
        sys.stdout.write(f"{cosine_S[index]:.4f}  {sentences[index]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
