"""llama.cpp's own server with a model that was never trained: two layers of random numbers.

    build/model/bin/python tests/model/serve.py FOLDER PORT

Writes FOLDER/tiny.gguf (460 kB), serves it on 127.0.0.1:PORT, says so in a line; until SIGTERM.
Its words are nonsense, but its wire is llama.cpp's: the same seed gives the same answer.
"""

import signal
import sys
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

WIDTH, DEPTH, HEADS, HIDDEN, CONTEXT = 64, 2, 4, 128, 4096
LETTERS = [chr(code) for code in range(32, 127)]
OWN = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def describe(writer: gguf.GGUFWriter) -> None:
    """Write what llama.cpp must know of the model, and a vocabulary of single letters."""
    kinds = gguf.TokenType
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(DEPTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(OWN + BYTES + LETTERS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in OWN + BYTES + LETTERS])
    writer.add_token_scores([0.0] * len(OWN + BYTES) + [-1.0] * len(LETTERS))
    own = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types(own + [kinds.BYTE] * len(BYTES) + [kinds.NORMAL] * len(LETTERS))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)


def weigh(writer: gguf.GGUFWriter) -> None:
    """Write random weights: always the same."""
    rng = np.random.default_rng(7)
    words = len(OWN + BYTES + LETTERS)

    def add(name: str, *shape: int) -> np.ndarray:
        values = rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
        writer.add_tensor(name, values)
        return values

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(WIDTH, np.float32))

    add("token_embd.weight", words, WIDTH)
    head = rng.normal(0, 0.5, (words, WIDTH)).astype(np.float32)
    head[: len(OWN + BYTES)] = 0  # it says letters, and comes to no end by itself
    writer.add_tensor("output.weight", head)
    norm("output_norm.weight")
    for layer in range(DEPTH):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        norm(f"{block}.ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{part}.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", HIDDEN, WIDTH)
        add(f"{block}.ffn_up.weight", HIDDEN, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, HIDDEN)


def write(file: Path) -> None:
    """Write the model."""
    writer = gguf.GGUFWriter(file, "llama")
    describe(writer)
    weigh(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(file: Path, port: int) -> None:
    """Serve the model until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # its threads leave it to us
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.model_alias = {"tiny"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT
    params.n_parallel = 2
    params.cpuparams.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)  # noqa: T201  its line
    signal.sigwait([signal.SIGTERM])


if __name__ == "__main__":
    model = Path(sys.argv[1], "tiny.gguf")
    write(model)
    serve(model, int(sys.argv[2]))
