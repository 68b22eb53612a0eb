"""The kinds of fields that the settings are made of: a type, its bounds, and what it expects.

A `description` completes the sentence "expected …" of an error message.
"""

from typing import Annotated

from msgspec import Meta

from service.core.secret import Secret

Port = Annotated[int, Meta(ge=0, le=65535, description="a port from 1 to 65535, or 0 for any")]
Seconds = Annotated[float, Meta(ge=0, le=86400, description="seconds from 0 (off) to 86400")]
Millis = Annotated[int, Meta(ge=0, le=60000, description="whole milliseconds from 0 to 60000")]
Count = Annotated[int, Meta(ge=0, description="a whole number, 0 for no bound")]
Network = Annotated[str, Meta(description="an address or a network such as 10.0.0.0/8")]
Size = Annotated[int, Meta(ge=1, description="a whole number of bytes, 1 or more")]
Flag = Annotated[bool, Meta(description="true or false")]
Text = Annotated[str, Meta(min_length=1, description="a text that is not empty")]
Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9._-]+\Z", description="a name of letters A-Z, digits, . _ -"),
]
Host = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_.-]+|\[?[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?)\Z",
        description="a host name such as relay.lan, without scheme and port",
    ),
]
Address = Annotated[
    str,
    Meta(
        pattern=r"^(([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5})?\Z",
        description="an address and a port such as 127.0.0.1:9101",
    ),
]
Origin = Annotated[
    str,
    Meta(pattern=r"^https?://[^/?#@*\s]+/?\Z", description="an origin: https://app.example.com"),
]
Prefix = Annotated[
    str,
    Meta(
        pattern=r"^(?!/(v1|chat|pages)(/|\Z))(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*/?\Z",
        description="a path such as /tokyo, other than /v1, /chat and /pages",
    ),
]
Url = Annotated[str, Meta(description="a base URL such as https://api.openai.com/v1")]
Hidden = Annotated[Secret, Meta(description="a text, best as ${OPENAI_API_KEY}")]
HeaderName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")]
HeaderText = Annotated[str, Meta(pattern=r"^[\t -~\x80-\xff]*\Z")]
Headers = Annotated[
    dict[HeaderName, HeaderText],
    Meta(description="a table of header names and one-line texts, such as {OpenAI-Project = 'p'}"),
]
