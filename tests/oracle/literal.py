"""Compares the literal parser and the equality of values with Python's own, on random texts.

usage: literal.py ORACLE [CASES [SEED]]

What Python's literal_eval reads, the parser reads, but for what `conservative` names; what the
parser reads, Python reads too, with the same value and types; equality is Python's, with NaN equal
to itself; and repr of a value reads back.
"""
import ast
import math
import random
import re
import struct
import subprocess
import sys
import warnings

warnings.simplefilter("ignore")
NAN = object()  # in place of a NaN: equal to itself
CALLS = {"set": set, "frozenset": frozenset, "dict": dict, "range": range, "float": float,
         "complex": complex, "bytearray": bytearray}
WORDS = {"inf": math.inf, "nan": math.nan, "infj": complex(0, math.inf),
         "nanj": complex(0, math.nan), "Ellipsis": ...}


# --- what Python reads ---

def is_call(node):
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id in CALLS)


def number(node, signed):
    if isinstance(node, ast.UnaryOp) and signed and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = number(node.operand, False)
        return -value if isinstance(node.op, ast.USub) else +value
    value = convert(node) if isinstance(node, (ast.Constant, ast.Name)) else None
    if type(value) not in (int, float, complex):
        raise ValueError
    return value


def convert(node):
    """Python's literal_eval, and the calls and words that literal.h names."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    if isinstance(node, ast.Tuple):
        return tuple(map(convert, node.elts))
    if isinstance(node, ast.List):
        return list(map(convert, node.elts))
    if isinstance(node, ast.Set):
        return set(map(convert, node.elts))
    if isinstance(node, ast.Dict):
        return {convert(k): convert(v) for k, v in zip(node.keys, node.values)}
    if is_call(node):
        keywords = {k.arg: convert(k.value) for k in node.keywords}
        return CALLS[node.func.id](*map(convert, node.args), **keywords)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        left, right = number(node.left, True), number(node.right, False)
        if type(left) in (int, float) and type(right) is complex:
            return left + right if isinstance(node.op, ast.Add) else left - right
        raise ValueError
    return number(node, True)


def read(text, arguments):
    """The value, or None in a list of one: ours may end in the middle of a line."""
    try:
        if not arguments:
            if not text.strip(" \t\r\n"):
                return None
            return [convert(ast.parse("(" + text + "\n)", mode="eval").body)]
        node = ast.parse("f(" + text + "\n)", mode="eval").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id == "f"):
            return None
        if any(k.arg is None for k in node.keywords):
            return None
        return [(tuple(map(convert, node.args)),
                 {k.arg: convert(k.value) for k in node.keywords})]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError,
            AttributeError, KeyError):
        return None


def read_strictly(text):
    try:
        return [ast.literal_eval(text)]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
        return None


def conservative(text):
    """Why the parser may refuse what Python reads; None: it may not."""
    reasons = {
        "comment": "#" in text,
        "line continuation": re.search(r"\\[\r\n]", text),
        "named character": "\\N{" in text,
        "form feed": "\f" in text,
        "sign and bracket": re.search(r"[-+]\s*\(|\)\s*[-+]", text),
        "digits": re.search(r"[0-9a-fA-F_]{4000}", text),
        "depth": max(text.count(c) for c in "([{") > 60,
    }
    return next((name for name, holds in reasons.items() if holds), None)


# --- the typed form of value.h ---

class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        self.at += size
        assert self.at <= len(self.data)
        return self.data[self.at - size:self.at]

    def unpack(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def values(self, count):
        return [self.value() for _ in range(count)]

    def value(self):
        tag = self.take(1).decode()
        constants = {"N": None, "T": True, "F": False, "E": ...}
        if tag in constants:
            return constants[tag]
        if tag == "R":
            return range(*self.unpack("qqq"))
        if tag in "id":
            return self.unpack("q" if tag == "i" else "d")[0]
        if tag == "c":
            return complex(*self.unpack("dd"))
        size, = self.unpack("I")
        if tag == "{":
            flat = self.values(2 * size)
            return dict(zip(flat[::2], flat[1::2]))
        if tag in "([SZ":
            return {"(": tuple, "[": list, "S": set, "Z": frozenset}[tag](self.values(size))
        run = self.take(size)
        if tag == "I":
            return int.from_bytes(run, "little", signed=True)
        return {"s": lambda r: r.decode("utf-8", "surrogatepass"), "b": bytes,
                "B": bytearray}[tag](run)


def decode(data, arguments):
    reader = Reader(data)
    if arguments:
        positional = tuple(reader.values(reader.unpack("I")[0]))
        names = {}
        for _ in range(reader.unpack("I")[0]):
            name = reader.value()
            names[name] = reader.value()
        value = (positional, names)
    else:
        value = reader.value()
    assert reader.at == len(data)
    return value


def shape(value):
    """Equal shapes exactly for values of the same types, order and signs of zero."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else struct.pack("<d", value)
    if isinstance(value, complex):
        return kind, shape(value.real), shape(value.imag)
    if isinstance(value, (tuple, list)):
        return kind, tuple(map(shape, value))
    if isinstance(value, (set, frozenset)):
        return kind, tuple(sorted(map(repr, map(shape, value))))
    if isinstance(value, dict):
        return kind, tuple((shape(k), shape(v)) for k, v in value.items())
    return kind, repr(value)


def without_nan(value):
    if isinstance(value, float) and math.isnan(value):
        return NAN
    if isinstance(value, (tuple, list)):
        return type(value)(map(without_nan, value))
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    return value


# --- random values and texts ---

FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 0.1, 1e16, 1e22, 1e23, 5e-324, 1.7976931348623157e308,
          2.0 ** 53, 2.0 ** 63, -2.0 ** 63, 2.0 ** 64, 2.0 ** 1023, 1e-7, 123456.789]
INTS = [0, 1, -1, 2, 255, 2 ** 31, 2 ** 53, 2 ** 53 + 1, 2 ** 63 - 1, 2 ** 63, -2 ** 63,
        -2 ** 63 - 1, 2 ** 64, 10 ** 22, 10 ** 23, 2 ** 1023, 2 ** 1024, 10 ** 400]
TEXTS = ["", "a", "'", '"', "\\", "\n", "\t\r", "\0", "\x1b", "\x7f", "\x80", "\xe9", "\u0301",
         "\u202e", "\ud800", "\udfff", "\ufeff", "\U0001f600", "{x}", "</answer>", "ab'\"c", "%s"]


def scalar(rng):
    return rng.choice([
        lambda: None, lambda: True, lambda: False, lambda: ...,
        lambda: rng.choice(INTS) * rng.choice((1, -1)) + rng.choice((0, 0, 1)),
        lambda: rng.randrange(-10 ** rng.randrange(1, 40), 10 ** rng.randrange(1, 40)),
        lambda: rng.choice(FLOATS) * rng.choice((1, -1)),
        lambda: struct.unpack("<d", rng.randbytes(8))[0],
        lambda: rng.choice((math.inf, -math.inf, math.nan)),
        lambda: complex(rng.choice(FLOATS), rng.choice(FLOATS) * rng.choice((1, -1))),
        lambda: "".join(rng.choice(TEXTS) for _ in range(rng.randrange(4))),
        lambda: rng.randbytes(rng.randrange(6)),
        lambda: bytearray(rng.randbytes(rng.randrange(3))),
        lambda: range(rng.randrange(-3, 4), rng.randrange(-3, 9), rng.choice((-2, -1, 1, 2, 3))),
    ])()


def key(rng, depth):
    if depth > 0 and rng.random() < 0.3:
        return tuple(key(rng, depth - 1) for _ in range(rng.randrange(3)))
    value = scalar(rng)
    hashable = not isinstance(value, bytearray) and value == value
    return value if hashable else rng.randrange(3)


def value(rng, depth=3):
    if depth == 0 or rng.random() < 0.4:
        return scalar(rng)
    count = rng.randrange(4)
    return rng.choice([
        lambda: [value(rng, depth - 1) for _ in range(count)],
        lambda: tuple(value(rng, depth - 1) for _ in range(count)),
        lambda: {key(rng, depth - 1): value(rng, depth - 1) for _ in range(count)},
        lambda: {key(rng, depth - 1) for _ in range(count)},
        lambda: frozenset(key(rng, depth - 1) for _ in range(count)),
    ])()


def number_twin(rng, v):
    if not isinstance(v, (bool, int, float)) or v != v or abs(v) == math.inf:
        return v
    choices = [v, complex(v, 0) if abs(v) < 1e300 else v, v + 1, -v]
    choices += [int(v)] if v == int(v) else []
    choices += [float(v)] if abs(v) < 10 ** 300 else []
    choices += [bool(v)] if v in (0, 1) else []
    return rng.choice(choices)


def twin(rng, v):
    """A value that is often equal and often of another type."""
    if isinstance(v, (bool, int, float)):
        return number_twin(rng, v)
    if isinstance(v, (list, tuple)):
        items = [twin(rng, i) if rng.random() < 0.5 else i for i in v]
        return type(v)(items) if rng.random() < 0.9 else tuple(items)
    if isinstance(v, (set, frozenset)):
        items = list(v)
        rng.shuffle(items)
        items = [key(rng, 1) if rng.random() < 0.1 else number_twin(rng, i) for i in items]
        return rng.choice((set, frozenset))(items)
    if isinstance(v, dict):
        items = list(v.items())
        rng.shuffle(items)
        return {k: twin(rng, i) if rng.random() < 0.3 else i for k, i in items}
    if isinstance(v, (bytes, bytearray)):
        return rng.choice((bytes, bytearray))(v)
    return v if rng.random() < 0.9 else scalar(rng)


TOKENS = """( ) [ ] { } , : = + - . ... _ ' " ''' \"\"\" \\ \n \r \t # * ** // @ ~ 0 1 7 9 00 07 0x 0xF
0b1 0o7 0_0 1_0 1__0 1. .5 1e5 1e 1e+ 1E-5 1j .5J 1_0.0_1e1_0 0777.0 0777j 1l 12e400 None True False
inf nan infj nanj Ellipsis set frozenset dict range float complex bytearray set() float('inf')
float('1_0') float(" 2 ") float('nan') range(3) dict(a=1) frozenset({1}) complex(1,2) b'a' r'\\d' u'a'
Rb'x' bR"y" f'a' ur'a' '\\x41' '\\u00e9' '\\U0001F600' '\\777' b'\\777' '\\8' '\\ud800' '\\N{DASH}' b'\\u0041'
'\\xg' 'a' 'b' lambda if else for in not and or is x f a= b= None= \ufeff \u00a0 \u3000 \u0661 \u00e9 \u00aa=
""".split(" ")
TOKENS = [t for token in TOKENS for t in (token.split("\n") if len(token) > 1 else [token]) if t]
TOKENS += [" ", "  ", "\n", "\r\n", "\t"]


def spelled(rng, v):
    """The value in another spelling than repr's."""
    text = repr(v)
    if rng.random() < 0.3:
        text = text.replace(", ", rng.choice((",", " , ", ",\n", ",\t")))
    if rng.random() < 0.2:
        text = rng.choice((" ", "\n", "(", "")) + text
        text += ")" if text[0] == "(" else ""
    return text


def mutated(rng, text):
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(text) + 1)
        cut = rng.choice((0, 0, 1, 1, 2))
        text = text[:at] + rng.choice(TOKENS + [""] * 30) + text[at + cut:]
    return text


def soup(rng):
    return "".join(rng.choice(TOKENS) for _ in range(rng.randrange(1, 7)))


def sentence(rng):
    return rng.choice([lambda: spelled(rng, value(rng)), lambda: mutated(rng, spelled(rng, value(rng))),
                       lambda: mutated(rng, spelled(rng, scalar(rng))), lambda: soup(rng)])()


# --- the comparison ---

def encode(text):
    return text.encode("utf-8", "surrogatepass").hex()


def check_text(text, arguments, said):
    if any("\ud800" <= c <= "\udfff" for c in text) or "\0" in text:
        return None if said == "no" else "reads what is no UTF-8 text"
    if said != "no":
        wanted = read(text, arguments)
        if wanted is None:
            return "reads what Python does not"
        got = decode(bytes.fromhex(said[1:]), arguments)
        if shape(got) != shape(wanted[0]):
            return f"reads {got!r}; Python {wanted[0]!r}"
    elif not arguments and read_strictly(text) is not None and not conservative(text):
        return "does not read what Python does"
    return None


def check_pair(a, b, said):
    wanted = "1" if without_nan(a) == without_nan(b) else "0"
    return None if said == wanted else f"says {said}; Python {wanted}"


def check_repr(v, said):
    if said == "no":
        return "does not read a repr"
    got = decode(bytes.fromhex(said[1:]), False)
    return None if without_nan(got) == without_nan(v) else f"reads {got!r}"


def main():
    oracle, cases = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20000
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    lines, checks = [], []
    for _ in range(cases // 4):
        text = sentence(rng)
        lines.append("literal " + encode(text))
        checks.append((text, lambda said, t=text: check_text(t, False, said)))
        text = ", ".join(sentence(rng) if rng.random() < 0.7 else
                         rng.choice(("a", "b", "if", "é")) + "=" + spelled(rng, scalar(rng))
                         for _ in range(rng.randrange(4)))
        lines.append("arguments " + encode(text))
        checks.append((text, lambda said, t=text: check_text(t, True, said)))
        a = value(rng)
        b = twin(rng, a) if rng.random() < 0.9 else value(rng)
        lines.append(f"equal {encode(repr(a))} {encode(repr(b))}")
        checks.append((f"{a!r} == {b!r}", lambda said, a=a, b=b: check_pair(a, b, said)))
        lines.append("literal " + encode(repr(a)))
        checks.append((repr(a), lambda said, a=a: check_repr(a, said)))
    run = subprocess.run([oracle], input="\n".join(lines) + "\n", capture_output=True, text=True)
    answers = run.stdout.split("\n")[:-1]
    if run.returncode != 0 or len(answers) != len(lines):
        sys.exit(f"the oracle broke off at {lines[len(answers)]}\n{run.stderr[-2000:]}")
    failures = [(text, complaint) for (text, check), said in zip(checks, answers)
                for complaint in [check(said)] if complaint]
    for text, complaint in failures[:30]:
        print(f"{ascii(text)}: {complaint[:300]}")
    read_count = sum(said != "no" for said in answers)
    print(f"{len(lines)} cases, {read_count} read, {len(failures)} failures")
    sys.exit(bool(failures))


main()
