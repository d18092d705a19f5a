"""What compression is worth on danmaku: how much smaller batches get, and what an entry costs.

The chat is made up here, from a seed: short lines in several languages with the repetitions that crowds have,
by users of very different zeal, with ids, devices, times and a header or two, as a room's ring holds them.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable, Iterator

from imgateway.frames import Address, Deliver, Entry, Message
from imgateway.wire import compression
from imgateway.wire.messages import deliver_frame, encode_message

LINES = {
    "zh": """主播好 来了来了 哈哈哈哈 666 太强了 这波可以 求歌单 前排 晚上好 笑死我了 有没有人 刚到 发生了什么
        再来一首 这个怎么买 几点下播 声音小了 卡了卡了 不卡啊 冲冲冲 加油 第一次来 关注了 送你小心心 好听 哭了
        绝了 什么情况 稳住""",
    "en": """lol; hello everyone; first time here; what song is this; gg; that was close; no way; clip it;
        chat is so fast; can you say hi to my sister; audio is low; lag?; not lagging for me; love this; W;
        where are you from; when is the next stream; wait what just happened; good night from Lisbon; haha;
        nice one; PogChamp""",
    "es": """hola a todos; jajaja; qué grande; saludos desde Perú; otra vez; no puede ser; vamos;
        qué canción es; se escucha bajo; buenísimo; primera vez aquí; dale dale""",
    "ja": """こんばんは わこつ 草 かわいい すごい おつかれ 初見です 神回 音小さい きた なるほど
        もう一回 888888 えぐい""",
    "ar": """مرحبا; هههه; ممتاز; من وين انت; الصوت منخفض; يلا; أول مرة هنا; رائع""",
    "ru": """всем привет; ахаха; что за трек; звук тихий; давай; красавчик; первый раз тут; спокойной ночи""",
}
EMOJI = ("😂", "❤️", "🔥", "👏", "😭", "🎉", "👍")
SHARE = {"zh": 40, "en": 25, "es": 10, "ja": 10, "ar": 8, "ru": 7}
BATCHES = (1, 8, 32)
ROOM = Address("room", "live-20871")


def danmaku(seed: int, count: int) -> list[Entry]:
    """`count` entries of one room."""
    dice = random.Random(seed)
    phrases = {
        language: [" ".join(phrase.split()) for phrase in (text.split(";") if ";" in text else text.split())]
        for language, text in LINES.items()
    }
    users = [f"{dice.randrange(10**7, 10**9)}" for _ in range(2_000)]
    devices = {user: dice.choice(("ios", "android", "android", "web")) for user in users}
    runs = {user: (f"{dice.getrandbits(64):016x}", dice.randrange(1, 400)) for user in users}
    levels = {user: str(min(60, int(dice.expovariate(0.12)))) for user in users}
    seq, now_ms, found = dice.randrange(10**6), 1_790_000_000_000, []
    for _ in range(count):
        seq += dice.choice((1, 1, 1, 2, 3, 7))  # other rooms take numbers, too
        now_ms += dice.randrange(9)
        user = users[min(int(dice.paretovariate(0.6)) - 1, dice.randrange(2_000))]
        run, number = runs[user]
        runs[user] = (run, number + 1)
        headers = [("level", levels[user])]
        if dice.random() < 0.3:
            headers.append(("color", dice.choice(("#ffffff", "#fe0302", "#ffd302", "#00cd00"))))
        message = Message(
            f"{run}-{number:x}",
            user,
            devices[user],
            "text/plain",
            line(dice, phrases).encode(),
            now_ms,
            headers=tuple(headers),
        )
        found.append(Entry(seq, encode_message(message)))
    return found


def line(dice: random.Random, phrases: dict[str, list[str]]) -> str:
    language = dice.choices(list(SHARE), list(SHARE.values()))[0]
    said = dice.choice(phrases[language])
    if dice.random() < 0.35:
        said += (" " if language in ("en", "es", "ar", "ru") else "") + dice.choice(phrases[language])
    if dice.random() < 0.2:
        said = f"@user{dice.randrange(10_000)} {said}"
    if dice.random() < 0.3:
        said += dice.choice(EMOJI) * dice.choice((1, 1, 1, 2, 3))
    if dice.random() < 0.1:
        said += str(dice.randrange(1_000))
    return said


def ways() -> Iterator[tuple[str, str, Callable[[str, list[bytes], int], bytes | None] | None]]:
    """Name, what Deliver says, and how it is packed. zlib is no choice, but what everybody knows."""
    yield "none", "", None
    for level in (1, 3, 6, 9):
        compression.tune(0, zstd_level=level)
        yield f"zstd {level}", "zstd", compression.compressed
    for level in (1, 3, 4, 5, 6, 9):
        compression.tune(0, br_level=level)
        yield f"brotli {level}", "br", compression.compressed
    for level in (1, 6, 9):
        yield f"zlib {level}", "zlib", _deflate(level)
    compression.tune()


def _deflate(level: int) -> Callable[[str, list[bytes], int], bytes]:
    def pack(name: str, parts: list[bytes], size: int) -> bytes:
        deflater = zlib.compressobj(level, zlib.DEFLATED, -15)
        return deflater.compress(b"".join(parts)) + deflater.flush()

    return pack


def measure(seed: int, entries: int, runs: int) -> Iterator[str]:
    """The lines of a table: bytes an entry and µs an entry for each batch, of whole frames."""
    chat = danmaku(seed, entries)
    heads = [f"{what}, {n}" for n in BATCHES for what in ("ratio", "µs")]
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "---|" * len(heads)
    plain: dict[int, float] = {}
    for name, said, pack in ways():
        cells = []
        for n in BATCHES:
            frames = [
                Deliver(ROOM, 0, 2**61, part[0].seq - 1, part[-1].seq, part, False, part[-1].seq, said)
                for part in (tuple(chat[at : at + n]) for at in range(0, len(chat) - n + 1, n))
            ]
            size, spent = 0, []
            for _ in range(runs):
                began = time.process_time()
                size = sum(len(deliver_frame(frame, pack, 1_048_576)) for frame in frames)
                spent.append(time.process_time() - began)
            plain.setdefault(n, size)
            cells += [f"{plain[n] / size:.2f}", f"{min(spent) / len(frames) / n * 1e6:.1f}"]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield "Bytes an entry without compression: " + ", ".join(
        f"{plain[n] / (len(chat) // n) / n:.0f} (batches of {n})" for n in BATCHES
    )
