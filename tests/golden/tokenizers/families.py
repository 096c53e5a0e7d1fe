# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers with the components of each model family, and text that finds differences. Used by generate.py and tests/interop."""
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
CL100K = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+" + CONTRACTIONS + "?",
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*" + CONTRACTIONS + "?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
# Letters with case, as the DeepSeek tokenizers list them: runs of code points.
_CASED = """41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481
48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d
1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102
2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee
2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3
104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943"""


def bracket(runs):
    """A bracket expression of runs such as "41-5a b5"."""
    return "[" + "".join("-".join(chr(int(end, 16)) for end in run.split("-")) for run in runs.split()) + "]"


DEEPSEEK_V2 = ["[\r\n]", r"\s?" + bracket(_CASED) + "+", r"\s?" + bracket("21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002") + "+", r"\s+$",
               bracket("4e00-9fa5 800-4e00 ac00-d7ff") + "+"]
DEEPSEEK_V3 = [r"\p{N}{1,3}", bracket("4e00-9fa5 3040-309f 30a0-30ff") + "+",
               "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
               "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def splits(*patterns):
    return [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]


# name: (normalizer, pre-tokenizers, added tokens that are special, added tokens that are not)
BYTE_FAMILIES = {
    "qwen": (normalizers.NFC(), [*splits(QWEN), byte_level()], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"]),
    "olmoe": (normalizers.NFC(), [byte_level(regex=True)], ["<|endoftext|>", "<|padding|>"],
              [AddedToken(" " * n, normalized=True) for n in (24, 8, 4, 2)] + [AddedToken("|||IP|||", normalized=False)]),
    "deepseek_v2": (None, [*splits(*DEEPSEEK_V2), pre_tokenizers.Digits(individual_digits=True), byte_level()],
                    ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], []),
    "deepseek_v3": (None, [*splits(*DEEPSEEK_V3), byte_level()],
                    ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], ["<｜User｜>", "<｜Assistant｜>"]),
    "gpt_oss": (None, [pre_tokenizers.Split(Regex(O200K), "removed", invert=True), byte_level()],
                ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>"], []),
    "cl100k": (None, [*splits(CL100K), byte_level(prefix=False)], ["<|begin_of_text|>", "<|end_of_text|>"],
               [AddedToken("<word>", single_word=True), AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
                AddedToken("<both>", lstrip=True, rstrip=True, normalized=False)]),
    "prefix_space": (normalizers.Sequence([normalizers.NFC()]), [byte_level(prefix=True, regex=True)], ["<|endoftext|>"], ["Ångström"]),
}
CHARACTER_FAMILIES = ["mixtral", "mixtral_metaspace", "metaspace_split"]
FAMILIES = [*BYTE_FAMILIES, *CHARACTER_FAMILIES]


def train_byte_family(name, corpus, size):
    normalizer, steps, special, added = BYTE_FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(added)
    tree = json.loads(tokenizer.to_str())
    if name in ("qwen", "olmoe"):  # the older way to write merges
        tree["model"]["merges"] = [" ".join(pair) for pair in tree["model"]["merges"]]
    if name == "cl100k":
        tree["model"]["ignore_merges"] = True
        bos = tokenizer.token_to_id("<|begin_of_text|>")
        frame = processors.TemplateProcessing(single="<|begin_of_text|> $A", pair=None, special_tokens=[("<|begin_of_text|>", bos)])
        tree["post_processor"] = {"type": "Sequence", "processors": [tree["post_processor"], json.loads(frame.__getstate__())]}
    if name == "gpt_oss":
        # a word that only the whole-piece rule of ignore_merges could reach stays out of reach
        tree["model"]["ignore_merges"] = False
    return tree


def train_character_family(name, corpus, size):
    reserved = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, special_tokens=reserved, limit_alphabet=120, show_progress=False))
    tree = json.loads(tokenizer.to_str())
    tree["added_tokens"] = [t for t in tree["added_tokens"] if t["id"] < 3]
    strip = json.loads(decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                          decoders.Strip(" ", 1, 0)]).__getstate__())
    tree["decoder"] = strip
    frame = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tree["post_processor"] = json.loads(frame.__getstate__())
    if name == "mixtral":
        tree["normalizer"] = json.loads(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]).__getstate__())
        tree["pre_tokenizer"] = None
    elif name == "mixtral_metaspace":
        tree["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        tree["added_tokens"].append(dict(tree["added_tokens"][0], id=len(tree["model"]["vocab"]), content="[INST]"))
    else:  # no bytes: characters outside the alphabet are unknown
        tree["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        tree["model"]["byte_fallback"] = False
        tree["model"]["fuse_unk"] = False
    return tree


def train(name, corpus, size):
    return (train_byte_family if name in BYTE_FAMILIES else train_character_family)(name, corpus, size)


SENTENCES = [
    "The quick brown fox can't jump over the lazy dog's back; it's WE'LL they'Re I'M you'd we've.",
    "Sphinx of black quartz, judge my vow! 3.14159 and 1,000,000 are numbers; so is ½ or Ⅷ or ٣٤٥.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío, añoraba a su querido cachorro.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Жёлтый цвет!",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. Ώ, ᾧ, ΐ",
    "いろはにほへと ちりぬるを。カタカナとひらがな、漢字かな交じり文です。",
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。２０２４年１月",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];  // dot product\n}\n",
    "def f(x):\n    if x is None:\n        return {'key': [1, 2, 3]}\n    return x ** 2\n",
    "#include <vector>\r\nint main() { return 0x7fff'ffff & ~1u; }\r\n\r\n",
    "https://example.org/a_b-c?q=1&r=%20#frag mail@example.org C:\\temp\\new /usr/lib//x86",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb, 🇩🇪🇫🇷, ❤️ and ☃",
]
PIECES = ["'s", "'LL", "'ſ", "'Re", "ſ", "K", "e\u0301", "\u0301", "A\u030a\u0327", "q\u0307\u0323", "\u1100\u1161\u11a8", "가\u11a8", "\u0344", "Å", "ﬁ",
          "①", "²", "\U0001d7d8", "\u200d", "\ufeff", "\u00a0", "\u3000", "\u2003", "\u0085", "\u2028", "\x00", "\x1f", "\x7f", "\t", "\n", "\r\n",
          "  ", "    ", "\n\n\n", " \n ", "\t\t ", "_", "__init__", "...", "!?", "--", "==", "$", "+", "«»", "“q”", "。", "！", "一二三", "々", "ー", "ｱ", "ﾞ", "Ⴀ",
          "ǅ", "ʰ", "ª", "\u0e33", "\u0903", "\U0001f468\u200d", "\ufffd", "\U0010ffff", "\ue000", "\u0378", "\U000e0041", "\U00011de1", "\U00011383",
          "\U000113c9", "123456", "0", "٣", "a1b2", "x²", "HTTPServer", "iPhone", "ÀÉ", "Straße", "ŒUVRE", "▁", "▁▁", "Ġ", "<0x41>", "</", "<s", "<|", "|>"]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "|||IP|||", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<|start|>", "<|message|>",
          "<word>", "<left>", "<right>", "<both>", "<s>", "</s>", "<unk>", "[INST]", "Ångström", "A\u030angstro\u0308m", " " * 24]


def mixed_text(rng):
    """One random text: sentences cut anywhere, odd pieces, tokens, random code points, runs of one character."""
    parts = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        if kind < 0.4:
            sentence = rng.choice(SENTENCES)
            begin = rng.randrange(len(sentence))
            parts.append(sentence[begin:begin + rng.randint(1, 40)])
        elif kind < 0.7:
            parts.append("".join(rng.choice(PIECES) for _ in range(rng.randint(1, 4))))
        elif kind < 0.8:
            parts.append(rng.choice(["", " ", "  ", "\n", "a", "é"]) + rng.choice(TOKENS) + rng.choice(["", " ", " \n", "b", "²"]))
        elif kind < 0.9:
            parts.append(rng.choice(" \t\n\ra1!é中.") * rng.choice([1, 2, 3, 5, 17, 60]))
        elif kind < 0.97:
            low, high = rng.choice([(0x20, 0x7f), (0x80, 0x250), (0x250, 0x1200), (0x1200, 0x3100), (0x4e00, 0x9fff), (0xa000, 0xd7ff),
                                    (0xf900, 0xffff), (0x10000, 0x1ffff), (0x20000, 0x10ffff)])
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
        else:
            parts.append(rng.choice(" ") * rng.randint(1, 5))
    return "".join(parts)


def texts(count, seed):
    rng = random.Random(seed)
    fixed = ["", " ", "  ", "\n", "a", " a", "a ", "\u0301", "\u00a0", "x" * 500, " " * 300, "\n" * 50, *SENTENCES, *PIECES, *TOKENS]
    return (fixed + [mixed_text(rng) for _ in range(max(0, count - len(fixed)))])[:count]
