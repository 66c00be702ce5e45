"""What a web crawl carries beside text: noise, and boilerplate that repeats. All of it made with a seed."""

import base64
import math
import random
from collections.abc import Iterator, Sequence
from typing import Final

NOISE: Final = "noise"
BOILERPLATE: Final = "boilerplate"

_BYTES_PER_HEX_LINE: Final = 16
_BYTES_PER_BASE64_LINE: Final = 57
_WORDS_PER_LINE: Final = 12
_SHORTEST_BYTES: Final = 100
_LONGEST_BYTES: Final = 2_000

_HOLDERS: Final = ("The Authors", "Example Corporation", "A. Developer", "The Project Contributors", "Acme, Inc.")
_NOTICES: Final = (
    """Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in
compliance with the License. You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is
distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See
the License for the specific language governing permissions and limitations under the License.""",
    """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation
the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of
the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT.""",
    """Redistribution and use in source and binary forms, with or without modification, are permitted provided that
the following conditions are met: redistributions of source code must retain the above copyright notice, this list
of conditions and the following disclaimer; redistributions in binary form must reproduce the above copyright
notice, this list of conditions and the following disclaimer in the documentation and/or other materials provided
with the distribution.""",
    """This program is free software: you can redistribute it and/or modify it under the terms of the GNU General
Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option)
any later version. This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY;
without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.""",
    """We use cookies to improve your experience on our site and to show you relevant advertising. By continuing to
browse you agree to our use of cookies. Read our Privacy Policy and our Terms of Service to learn more. Accept all
cookies. Manage preferences. All rights reserved. Back to top. Share this page. Subscribe to our newsletter.""",
)


def seeded_random(seed: int, purpose: str) -> random.Random:
    """Return a generator that always gives the same numbers for a purpose."""
    return random.Random(f"{seed} {purpose}")  # noqa: S311 - repeatable on purpose


def noise(words: Sequence[str], *, seed: int) -> Iterator[str]:
    """Go on for ever with hex dumps, base64 blocks and shuffled words, a third each.

    Args:
        words: what the shuffled words are drawn from.
        seed: another seed gives other noise.
    """
    rng = seeded_random(seed, NOISE)
    while True:
        num_bytes = int(math.exp(rng.uniform(math.log(_SHORTEST_BYTES), math.log(_LONGEST_BYTES))))
        yield _hex_dump(rng.randbytes(num_bytes), rng.randrange(1 << 24))
        yield "\n".join(
            _chunked(base64.b64encode(rng.randbytes(2 * num_bytes)).decode(), _BYTES_PER_BASE64_LINE * 4 // 3)
        )
        shuffled = rng.choices(words, k=num_bytes // 2)
        yield "\n".join(
            " ".join(shuffled[start : start + _WORDS_PER_LINE]) for start in range(0, len(shuffled), _WORDS_PER_LINE)
        )


def boilerplate(*, seed: int) -> Iterator[str]:
    """Go on for ever with one to three notices under a copyright line."""
    rng = seeded_random(seed, BOILERPLATE)
    while True:
        notices = rng.sample(_NOTICES, k=rng.randint(1, 3))
        copyright_line = f"Copyright (c) {rng.randint(1995, 2025)} {rng.choice(_HOLDERS)}. All rights reserved."
        yield "\n\n".join([copyright_line, *notices])


def _hex_dump(content: bytes, address: int) -> str:
    return "\n".join(
        f"{address + start:08x}  {content[start : start + _BYTES_PER_HEX_LINE].hex(' ')}"
        for start in range(0, len(content), _BYTES_PER_HEX_LINE)
    )


def _chunked(text: str, length: int) -> Iterator[str]:
    return (text[start : start + length] for start in range(0, len(text), length))
