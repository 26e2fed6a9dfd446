#!/bin/bash
# The verifier as a process, roughly treated: killed, cut off, fed garbage, with a full disk behind
# it. It ends with a sentence or gives verdicts, and leaves no process behind.
# usage: verifier.sh BIN_FOLDER [BACKEND]
set -u
bin=$1
backend=${2:-auto}
work=$(mktemp -d)
trap 'kill -9 ${daemon:-} 2>/dev/null; rm -rf "$work"' EXIT
verify=("$bin/kelvin-verifier" --stdin --backend "$backend" --isolation process --workers 2)

fail() {
    echo "FAILED: $*"
    exit 1
}

images_of() { # images_of PID: its children
    pgrep -P "$1" -f kelvin-image
}

# Whether the processes of a list all end within ten seconds.
gone() {
    for _ in $(seq 100); do
        alive=0
        for pid in "$@"; do [ -d "/proc/$pid" ] && [ "$(cut -d' ' -f3 "/proc/$pid/stat")" != Z ] && alive=1; done
        [ "$alive" = 0 ] && return 0
        sleep 0.1
    done
    return 1
}

loop='{"id":1,"kind":"run","program":"def f(x):\n    while True: pass","input":"1","timeout_ms":60000}'
good='{"id":2,"kind":"validate","program":"def f(x):\n    return x + 1","input":"1"}'

# A killed daemon's images die with it, also one that is busy.
mkfifo "$work/in"
"${verify[@]}" <"$work/in" >"$work/out" 2>"$work/log" &
daemon=$!
exec 7>"$work/in"
printf '%s\n%s\n' "$loop" "$good" >&7
until grep -q '"id":2' "$work/out"; do
    [ -d /proc/$daemon ] || fail "the daemon ended: $(cat "$work/log")"
    sleep 0.05
done
images=$(images_of $daemon)
[ -n "$images" ] || fail "no image is there"
kill -9 $daemon
wait $daemon 2>/dev/null
exec 7>&-
gone $images || fail "images outlive a killed daemon: $images"

# So they do when the daemon is told to stop while a run goes on.
"${verify[@]}" <"$work/in" >"$work/out" 2>"$work/log" &
daemon=$!
exec 7>"$work/in"
printf '%s\n%s\n' "$loop" "$good" >&7
until grep -q '"id":2' "$work/out"; do
    [ -d /proc/$daemon ] || fail "the daemon ended: $(cat "$work/log")"
    sleep 0.05
done
images=$(images_of $daemon)
kill -TERM $daemon
wait $daemon
code=$?
[ $code = 143 ] || fail "exit code $code after SIGTERM, not 128 + 15"
exec 7>&-
gone $images || fail "images outlive a stopped daemon: $images"

# A full disk is one sentence and exit code 2.
echo "$good" | "${verify[@]}" >/dev/full 2>"$work/log"
[ $? = 2 ] && grep -q 'No space left' "$work/log" || fail "a full disk: $(cat "$work/log")"

# Also one that fills up on the way, where this user may mount one.
if mkdir "$work/small" && mount -t tmpfs -o size=64k tmpfs "$work/small" 2>/dev/null; then
    trap 'kill -9 ${daemon:-} 2>/dev/null; umount "$work/small"; rm -rf "$work"' EXIT
    (for _ in $(seq 2000); do echo "$good"; done) | "${verify[@]}" >"$work/small/out" 2>"$work/log"
    [ $? = 2 ] && grep -q 'No space left' "$work/log" || fail "a disk that fills up: $(cat "$work/log")"
fi

# A reader that goes away likewise.
(for _ in $(seq 2000); do echo "$good"; done) | "${verify[@]}" 2>"$work/log" | head -1 >/dev/null
grep -q 'Broken pipe' "$work/log" || fail "a vanished reader: $(cat "$work/log")"

# A reader that is late loses nothing, also where the output does not block. All verdicts but the
# first come from the cache, so a verifier that sleeps over a full pipe waits for the reader.
for i in $(seq 300); do echo "${good/\"id\":2/\"id\":$i}"; done >"$work/many"
/usr/bin/python3 - "$work/many" "${verify[@]}" <<'PYTHON' || fail "a late reader of an output that does not block"
import fcntl, os, struct, subprocess, sys, termios
reader, writer = os.pipe()
fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
os.set_blocking(writer, False)
verify = subprocess.Popen(sys.argv[2:], stdin=open(sys.argv[1]), stdout=writer, stderr=subprocess.DEVNULL)
os.close(writer)
def waiting():
    return struct.unpack('i', fcntl.ioctl(reader, termios.FIONREAD, b'0000'))[0]
def sleeps():
    with open(f'/proc/{verify.pid}/stat') as stat:
        return stat.read().rsplit(')')[1].split()[0] == 'S'
while verify.poll() is None and not (waiting() > 3500 and sleeps()):
    os.sched_yield()
lines = open(reader, 'rb').read().count(b'\n')
sys.exit(not (lines == 300 and verify.wait() == 0))
PYTHON

# Garbage lines get a verdict each, a line without end a sentence.
{
    printf 'null\n{"id":3\n\xff\xfe\n{"id":4,"kind":"validate","program":3}\n%s\n' "$good"
    printf '{"id":5,"kind":"run","program":"def f(x): return x","input":"1"' # cut off
} | "${verify[@]}" >"$work/out" 2>"$work/log" || fail "garbage: $(cat "$work/log")"
[ "$(grep -c '"verdict":"malformed"' "$work/out")" = 5 ] || fail "garbage: $(cat "$work/out")"
grep -q '"verdict":"ok"' "$work/out" || fail "the good line among garbage"
head -c 20000000 /dev/zero | tr '\0' x | "${verify[@]}" >"$work/out" 2>"$work/log"
[ $? = 2 ] && grep -q 'longer than' "$work/log" || fail "an endless line: $(cat "$work/log")"

# Ten thousand time-outs in a row: no image is lost or replaced, and the memory stays.
endless() { # endless FIRST LAST
    seq "$1" "$2" | sed 's/.*/{"id":&,"kind":"run","program":"def f(x):\\n    while True: pass #&","input":"1","timeout_ms":1}/'
}
answered() { # answered COUNT: waits for so many verdicts
    until [ "$(wc -l <"$work/out")" -ge "$1" ]; do
        [ -d /proc/$daemon ] || fail "time-outs: $(tail -3 "$work/log")"
        sleep 0.1
    done
}
memory_of() { # memory_of PID: its own memory in KB, and that which it shares with its images
    awk '/^RssAnon|^RssShmem/ { kb += $2 } END { print kb }' "/proc/$1/status"
}
"${verify[@]}" --no-cache <"$work/in" >"$work/out" 2>"$work/log" &
daemon=$!
exec 7>"$work/in"
endless 1 1000 >&7
answered 1000
images=$(images_of $daemon)
before=$(memory_of $daemon)
endless 1001 10000 >&7
answered 10000
[ "$(images_of $daemon)" = "$images" ] || fail "time-outs: other images: $images, then $(images_of $daemon)"
after=$(memory_of $daemon)
[ $((after - before)) -lt 4096 ] || fail "time-outs: memory grew from $before to $after KB"
exec 7>&-
wait $daemon || fail "time-outs: $(tail -3 "$work/log")"
[ "$(grep -c '"verdict":"timeout"' "$work/out")" = 10000 ] || fail "time-outs: $(head -3 "$work/out")"
grep -q 'image lost' "$work/log" && fail "an image was lost: $(cat "$work/log")"
echo "verifier: right in all ($backend)"
