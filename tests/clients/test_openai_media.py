"""Embeddings, files, audio and images by the openai SDK, each call as if there were no relay."""

from compare import Call, both_ways, table
from sdks import (
    PROMPT,
    around_the_sdks,  # noqa: F401  a fixture of every test here
    async_openai_client,
    openai_client,
)
from wires import answers, streams
from wires import openai_media as media

CLIENTS = {"openai": openai_client, "openai-async": async_openai_client}

BIG = bytes(range(256)) * 8 * 1024
WAV = ("question.wav", media.SOUND, "audio/wav")
PNG = ("照片.png", media.PICTURE, "image/png")
FILE = media.file("notes 笔记.txt", len(BIG))

CALLS = [
    Call(
        "embeddings",
        answers(media.embeddings([media.VECTOR] * 2, base64_form=True)),
        lambda c: c.embeddings.create(model="text-embedding-3-small", input=[PROMPT, "b"]),
        lambda answer: tuple(answer.data[1].embedding),
        media.VECTOR,
    ),
    Call(
        "embeddings as floats",
        answers(media.embeddings([media.VECTOR], base64_form=False)),
        lambda c: c.embeddings.create(
            model="text-embedding-3-small", input=PROMPT, encoding_format="float"
        ),
        lambda answer: tuple(answer.data[0].embedding),
        media.VECTOR,
    ),
    Call(
        "file upload, 2 MiB",
        answers(FILE),
        lambda c: c.files.create(file=("notes 笔记.txt", BIG), purpose="user_data"),
        lambda answer: (answer.filename, answer.bytes),
        ("notes 笔记.txt", len(BIG)),
    ),
    Call(
        "files listed",
        answers(media.file_list(FILE)),
        lambda c: c.files.list(purpose="user data/ä&=", limit=2, order="desc"),
        lambda files: [file.filename for file in files],
        ["notes 笔记.txt"],
    ),
    Call(
        "file content",
        answers(BIG, 200, [("Content-Type", "application/octet-stream")]),
        lambda c: c.files.content(FILE["id"]),
        lambda answer: answer,
        BIG,
    ),
    Call(
        "file deleted",
        answers(media.file_deleted()),
        lambda c: c.files.delete(FILE["id"]),
        lambda answer: answer.id,
        FILE["id"],
    ),
    Call(
        "transcription",
        answers(media.transcription(PROMPT)),
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=WAV),
        lambda answer: answer.text,
        PROMPT,
    ),
    Call(
        "transcription, streamed",
        streams(media.framed(media.transcription_events(["你好", "吗？ 🤖"]))),
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=WAV, stream=True),
        lambda events: "".join(event.delta for event in events[:-1]),
        "你好吗？ 🤖",
    ),
    Call(
        "speech",
        answers(media.SOUND, 200, [("Content-Type", "audio/mpeg")]),
        lambda c: c.audio.speech.create(model="tts", voice="alloy", input=PROMPT),
        lambda answer: answer,
        media.SOUND,
    ),
    Call(
        "speech, read as it comes",
        answers(media.SOUND, 200, [("Content-Type", "audio/mpeg")]),
        lambda c: c.audio.speech.with_streaming_response.create(
            model="tts", voice="alloy", input=PROMPT
        ),
        lambda answer: answer,
        media.SOUND,
    ),
    Call(
        "image",
        answers(media.images(media.PICTURE)),
        lambda c: c.images.generate(model="gpt-image-1", prompt=PROMPT),
        lambda answer: answer.data[0].b64_json,
        media.images(media.PICTURE)["data"][0]["b64_json"],
    ),
    Call(
        "image, streamed",
        streams(media.framed(media.image_events([b"1", b"2"], media.PICTURE))),
        lambda c: c.images.generate(
            model="gpt-image-1", prompt=PROMPT, stream=True, partial_images=2
        ),
        lambda events: [event.type.rpartition(".")[2] for event in events],
        ["partial_image", "partial_image", "completed"],
    ),
    Call(
        "image edit, two uploads",
        answers(media.images(media.PICTURE)),
        lambda c: c.images.edit(model="gpt-image-1", image=[PNG, PNG], prompt=PROMPT),
        lambda answer: len(answer.data),
        1,
    ),
]


@table(CLIENTS, CALLS)
async def test_call(connect, call):
    """The call's answer is the API's, and the API was asked what the SDK asks it directly."""
    relayed, direct = await both_ways(connect, call)
    assert call.read(relayed.answer) == call.expected
    assert relayed == direct
