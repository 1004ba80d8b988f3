"""Diverse lines of text from a seed, for tests that compare tokenizers. No file is read."""
import random

WORDS = ("the of and to in is server tokenizer model attention don't we'll I'VE they're HTTPResponse camelCase "
         "naïve café Straße ŒUVRE fiancée coöperate Éclair").split()
SCRIPTS = [
    (0x0400, 0x04FF), (0x0370, 0x03FF), (0x0590, 0x05FF), (0x0600, 0x06FF), (0x0900, 0x097F), (0x0980, 0x09FF),
    (0x0B80, 0x0BFF), (0x0E00, 0x0E7F), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F),
    (0x13A0, 0x13FF), (0x1E00, 0x1EFF), (0x3040, 0x309F), (0x30A0, 0x30FF), (0x3100, 0x312F), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xA640, 0xA69F), (0x0300, 0x036F), (0x0180, 0x024F), (0x1F00, 0x1FFF), (0x2100, 0x214F),
    (0x20000, 0x2A6DF), (0x1D400, 0x1D7FF), (0x10400, 0x1044F), (0x1E900, 0x1E95F), (0xFB00, 0xFB4F),
    (0xFF00, 0xFFEF), (0xF900, 0xFAFF), (0x2F00, 0x2FDF), (0x0F00, 0x0FFF), (0x1780, 0x17FF)]
CHINESE = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运"
SPACES = [" ", "  ", "    ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\u200b", "\x0b", "\x0c", "\x85", "\u1680"]
EMOJI = ["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇯🇵", "❤️", "1️⃣", "🧑🏿‍🚀", "☺", "🫠", "🪿", "🫩", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
CODE = ["def f(x):\n    return x**2  # square", "for(int i=0;i<n;++i){a[i]+=b[i];}", "SELECT * FROM t WHERE a='b';",
        "<div class=\"x\">&amp;</div>", "https://a.b/c?d=e&f=%20#g", "{\"k\":[1,2.5e-3,null]}", "\\frac{a}{b}",
        "x=>x?.y??z", "#include <vector>\r\n", "/* c */ // d", "git commit -m 'msg' --amend", "a/b//c///d\n/\n"]
COMBINING = ["e\u0301", "a\u0323\u0302", "a\u0302\u0323", "\u1100\u1161\u11a8", "\u212b", "\u0958", "\ufb2c", "q\u0307\u0323",
             "\u0344", "\u2126", "\uac00\u11a8", "\u0cc6\u0cc2\u0cd5", "\U0001109b\U000110ba", "\u09c7\u09be"]


def random_char(rng):
    while True:
        c = rng.choice((rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0x10000), rng.randrange(0x110000)))
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def piece(rng, specials):
    kind = rng.randrange(17)
    if kind <= 2:
        return rng.choice(["", " ", " ", " "]) + rng.choice(WORDS)
    if kind == 3:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12)))
    if kind == 4:
        return rng.choice(SPACES) * rng.randint(1, rng.choice((2, 8, 40)))
    if kind == 5:
        return "".join(rng.choice("0123456789٠١२²½〇Ⅻ") if rng.random() < .2 else str(rng.randrange(10))
                       for _ in range(rng.randint(1, 15)))
    if kind == 6:
        return rng.choice(CODE)
    if kind == 7:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 4)))
    if kind == 8:
        return "".join(chr(rng.randrange(0x20)) for _ in range(rng.randint(1, 4)))
    if kind == 9 and specials:
        text = rng.choice(specials)
        return text if rng.random() < .7 else text[:rng.randint(1, len(text))]
    if kind == 10:
        return "".join(random_char(rng) for _ in range(rng.randint(1, 10)))
    if kind == 11:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¿¡«»“”—…。，！？、") for _ in range(rng.randint(1, 8)))
    if kind == 12:
        return rng.choice(["'s", "'S", "'ll", "'LL", "'Ve", "'ſ", "'d", "'re", "'M", "'T", "’s", "'ſt", "K'ſ"])
    if kind == 13:
        return "".join(rng.choice(CHINESE) for _ in range(rng.randint(1, 30))) + rng.choice("，。！？ \n")
    if kind == 14:
        return "".join(rng.choice(COMBINING) for _ in range(rng.randint(1, 4)))
    if kind == 15:
        return rng.choice(["a", "A", "é", "中", "ǅ", "▁", "Ġ", "\u0301", "\u200d"]) * rng.randint(1, 60)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ") for _ in range(rng.randint(1, 14)))


def lines(seed, count, specials=()):
    rng = random.Random(seed)
    specials = list(specials)
    for _ in range(count):
        yield "".join(piece(rng, specials) for _ in range(rng.randint(1, rng.choice((2, 6, 14)))))
