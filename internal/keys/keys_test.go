package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// Unwrap returns the data key unchanged, but only for the key that wrapped it, and only for the same ID.
func TestWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), keys.MinKey, keys.MaxKey).Draw(t, "secret")
		key, err := keys.New(secret, "key")
		require.NoError(t, err)
		id, data := keys.NewDataKey()
		e := key.Wrap(id, data)
		if got, err := key.Unwrap(e); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %x, %v", got, err)
		}
		if again := key.Wrap(id, data); bytes.Equal(again.Wrapped, e.Wrapped) || bytes.Contains(e.Wrapped, data[:8]) {
			t.Fatal("wrapped twice it is the same, or to be seen")
		}
		other := bytes.Clone(secret)
		other[rapid.IntRange(0, len(other)-1).Draw(t, "byte")] ^= 1
		wrong, err := keys.New(other, "other key")
		require.NoError(t, err)
		if _, err := wrong.Unwrap(e); dataset.KindOf(err) != dataset.ErrForbidden ||
			!strings.Contains(err.Error(), key.ID()) || !strings.Contains(err.Error(), wrong.ID()) {
			t.Fatalf("by another key: %v", err)
		}
		damaged := e
		damaged.Wrapped = bytes.Clone(e.Wrapped)
		damaged.Wrapped[rapid.IntRange(0, len(e.Wrapped)-1).Draw(t, "damaged")] ^= 1
		short := e
		short.Wrapped = e.Wrapped[:rapid.IntRange(0, len(e.Wrapped)-1).Draw(t, "short")]
		elsewhere := e
		elsewhere.ID = uuid.New()
		for what, bad := range map[string]dataset.Encryption{
			"damaged":   damaged,
			"short":     short,
			"elsewhere": elsewhere,
		} {
			if _, err := key.Unwrap(bad); dataset.KindOf(err) != dataset.ErrCorrupt {
				t.Fatalf("%s: %v", what, err)
			}
		}
	})
}

// A data key that a later version of Drover wrapped is refused by its number, and not reported as damaged.
func TestLaterForm(t *testing.T) {
	key, err := keys.New([]byte(strings.Repeat("secret-", 8)), "key")
	require.NoError(t, err)
	later := key.Wrap(keys.NewDataKey())
	later.Wrapped[0] = 2
	_, err = key.Unwrap(later)
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("got error %v, want that format 2 is not supported", err)
	}
}

// No way to print a key shows any part of it.
func TestKeyIsNotPrinted(t *testing.T) {
	secret := []byte(strings.Repeat("secret-", 8))
	key, err := keys.New(secret, "key")
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if said := fmt.Sprintf(verb, key); holds(said, secret) {
			t.Errorf("%s prints %s", verb, said)
		}
	}
}

// holds reports whether a text contains a secret, or the middle half of it, in any form.
func holds(said string, secret []byte) bool {
	part := secret[len(secret)/4 : len(secret)*3/4]
	for _, form := range []string{
		string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)),
		base64.StdEncoding.EncodeToString(secret),
	} {
		if strings.Contains(said, form) {
			return true
		}
	}
	return false
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{7}, size), mode))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	must := func(path string, err error) string {
		require.NoError(t, err)
		return path
	}
	beside := func(folder string, mode os.FileMode) string {
		in := filepath.Join(dir, folder)
		require.NoError(t, os.Mkdir(in, 0o700))
		return must(file(filepath.Join(folder, "key"), 64, 0o600), os.Chmod(in, mode))
	}
	foreign, link, fifo := file("foreign", 64, 0o600), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	for _, c := range []struct{ name, path, want string }{
		{"good", file("good", 64, 0o600), ""},
		{"read-only", file("read-only", 32, 0o400), ""},
		{"largest", file("largest", 4096, 0o600), ""},
		{
			"absent", filepath.Join(dir, "absent"),
			"restore it from your copy; if nothing is encrypted by it yet: (umask 077; head -c 64 /dev/urandom > " + filepath.Join(dir, "absent"),
		},
		{"others read it", file("wide", 64, 0o640), "chmod 600 " + filepath.Join(dir, "wide")},
		{"others write it", file("written", 64, 0o602), "chmod 600"},
		{"a program", file("program", 64, 0o700), "chmod 600"},
		{"short", file("short", 31, 0o600), "has 31 bytes: a key has 32 to 4096 (restore it from your copy"},
		{"empty", file("empty", 0, 0o600), "has 0 bytes"},
		{"long", file("long", 4097, 0o600), "has 4097 bytes"},
		{"another's", must(foreign, os.Chown(foreign, 1000, 0)), "chown root"},
		{"link", must(link, os.Symlink(file("target", 64, 0o600), link)), "symbolic link"},
		{"fifo", must(fifo, unix.Mkfifo(fifo, 0o600)), "is not a file"},
		{"folder", must(filepath.Join(dir, "folder"), os.Mkdir(filepath.Join(dir, "folder"), 0o700)), "is not a file"},
		{"relative", "keys/gold", "absolute path"},
		{"in a folder of everybody's", beside("open", 0o777), "chmod o-w " + filepath.Join(dir, "open")},
		{"in one where each removes his own", beside("sticky", 0o777|os.ModeSticky), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, err := keys.Read(t.Context(), nil, dataset.KeySource{KeyFile: c.path}, keys.KeyRequest{})
			if c.want == "" {
				if err != nil || !key.Known() {
					t.Fatal(err)
				}
				return
			}
			if dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func program(t *testing.T, script string) (keys.Key, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drover-key")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700))
	from := dataset.KeySource{Exec: []string{path, "an argument"}, Timeout: dataset.Duration(20 * time.Second)}
	return keys.Read(t.Context(), &run.System{}, from, keys.KeyRequest{
		Profile: "gold",
		Dataset: uuid.MustParse("6f0a64d6-5d9b-4f0c-9b57-0d2a3f1f5f11"),
	})
}

func TestKeyProgram(t *testing.T) {
	ask := `{"profile":"gold","dataset":"6f0a64d6-5d9b-4f0c-9b57-0d2a3f1f5f11"}`
	want, err := keys.New([]byte(ask+"\nan argument"), "key")
	require.NoError(t, err)
	if key, err := program(t, `cat; printf %s "$1"`); err != nil || key.ID() != want.ID() {
		t.Errorf("got %v, %v", key, err)
	}
	for script, want := range map[string]string{
		"exit 0":                               "has 0 bytes",
		"head -c 5000 /dev/zero":               "has 4097 bytes",
		"echo no such entry >&2; exit 3":       "exit status 3: no such entry",
		"head -c 100000000 /dev/zero; kill $$": "signal",
	} {
		if _, err := program(t, script); dataset.KindOf(err) != dataset.ErrForbidden ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
	slow := dataset.KeySource{Exec: []string{"/bin/sleep", "60"}, Timeout: dataset.Duration(50 * time.Millisecond)}
	if _, err := keys.Read(t.Context(), &run.System{}, slow, keys.KeyRequest{}); dataset.KindOf(err) != dataset.ErrForbidden ||
		!strings.Contains(err.Error(), "timed out (its limit is 50ms: timeout, beside exec in the profile)") {
		t.Errorf("too slow: %v", err)
	}
}

// If a key program fails and prints its key, the error does not contain the key.
func TestKeyProgramIsNotRepeated(t *testing.T) {
	for _, secret := range []string{
		strings.Repeat("0123456789abcdef", 4), "correct horse battery staple and more of it",
	} {
		_, err := program(t,
			"cat >/dev/null; printf %s '"+secret+"'; echo '+ printf "+secret+"' >&2; echo token denied >&2; exit 1")
		if err == nil || holds(err.Error(), []byte(secret)) || !strings.Contains(err.Error(), "token denied") {
			t.Errorf("got %v", err)
		}
	}
	secret := strings.Repeat("0123456789abcdef", 4) // the program writes it only to standard error
	_, err := program(t, "cat >/dev/null; echo 'the key is "+secret+", and no' >&2; exit 1")
	if err == nil || holds(err.Error(), []byte(secret)) || !strings.Contains(err.Error(), "and no") {
		t.Errorf("got %v", err)
	}
}

// grouped formats bytes as hexadecimal digits in groups, as programs print them.
func grouped(secret []byte, group int, between string) string {
	text := hex.EncodeToString(secret)
	var parts []string
	for ; len(text) > 0; text = text[min(group, len(text)):] {
		parts = append(parts, text[:min(group, len(text))])
	}
	return strings.Join(parts, between)
}

// A key that is printed in groups of digits is removed from the error too. The parts of the error that a person needs
// stay.
func TestKeyInGroupsIsNotRepeated(t *testing.T) {
	secret := []byte("\x01k\xffz-7Q\x80~$\x1b\x00pL\xeePq\x12\x99kT\xaa\xc3\x04wB!e\xd2\x11>R")
	var decimal, escaped []string
	for _, b := range secret {
		decimal, escaped = append(decimal, fmt.Sprint(b)), append(escaped, fmt.Sprintf("\\x%02x", b))
	}
	for _, shown := range []string{
		grouped(secret, 2, " "), grouped(secret, 2, ":"), grouped(secret, 4, " "), grouped(secret, 8, "-"),
		grouped(secret, 16, ", "),
		strings.ToUpper(grouped(secret, 4, ".")), "0x" + grouped(secret, 2, ", 0x"), grouped(secret, 16, "\n"),
		"[" + strings.Join(decimal, " ") + "]", strings.Join(decimal, ","), strings.Join(escaped, ""),
		strings.Join(escaped, " "),
	} {
		for _, prints := range []string{"", "printf %s 'something else that is as long as a key is, or more';"} {
			_, err := program(t,
				"cat >/dev/null; "+prints+" cat >&2 <<'E'\ntoken of 2026-11-21 12:00:01 denied by 192.168.100.7:8200, key "+shown+" is bad\nE\nexit 1")
			if err == nil || !strings.Contains(err.Error(), "2026-11-21 12:00:01 denied by 192.168.100.7:8200, key") ||
				!strings.Contains(err.Error(), "is bad") {
				t.Errorf("got %v", err)
			}
			if digits := strings.Count(strings.ToLower(err.Error()), shown[:5]); digits > 0 {
				t.Errorf("of %s it says %v", shown, err)
			}
		}
	}
	for what, shown := range map[string]string{
		"with its text": "00000000: 7365 6372 6574 2d6b |secret-k|", "a part": "it ends in secret-key, no",
		"a short part in hex": "73:65:63:72:65:74:2d:6b denied",
	} {
		_, err := program(t,
			"cat >/dev/null; printf %s 'secret-key-of-an-operator-that-is-long-enough'; echo '"+shown+"' >&2; exit 1")
		if err == nil || strings.Contains(err.Error(), "secret-k") || strings.Contains(err.Error(), "7365") ||
			strings.Contains(err.Error(), "73:65") || !strings.Contains(err.Error(), "[left out]") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// After the line with the password, a file with credentials has nothing but certificates.
func TestCredentialsOfREST(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credentials")
	for content, good := range map[string]bool{
		"u:p\n": true, "u\n": false, ":p\n": false, "u:p\nmore\n": false,
		"u:p\n-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n": false,
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := keys.ReadRESTCredentials(path); (err == nil) != good || !good && !errors.Is(err, dataset.ErrForbidden) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestPasswordFiles(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want, refused string
	}{
		{"good", "correct horse\n", 0o600, "correct horse", ""},
		{"without a newline", "x", 0o400, "x", ""},
		{"empty", "\n", 0o600, "", "is empty: expected the password"},
		{"two lines", "one\ntwo\n", 0o600, "", "has several lines"},
		{"long", strings.Repeat("x", 4097), 0o600, "", "is too long"},
		{"others read it", "x", 0o640, "", "chmod 600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			require.NoError(t, os.WriteFile(path, []byte(c.content), c.mode))
			got, err := keys.ReadPassword(t.Context(), nil, dataset.PasswordSource{File: path})
			if c.refused == "" {
				if err != nil || string(got.Reveal()) != c.want {
					t.Fatalf("got %q, %v", got.Reveal(), err)
				}
				return
			}
			if dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want %s", err, c.refused)
			}
		})
	}
	path := filepath.Join(dir, "absent")
	if _, err := keys.ReadPassword(t.Context(), nil, dataset.PasswordSource{File: path}); dataset.KindOf(err) != dataset.ErrForbidden ||
		!strings.Contains(err.Error(), "base64 > "+path) {
		t.Errorf("absent: got %v", err)
	}
	if err := keys.CheckCredentialsFile(path); dataset.KindOf(err) != dataset.ErrForbidden ||
		!strings.HasSuffix(err.Error(), "absent not found (restore it from your copy)") {
		t.Errorf("absent credentials: got %v", err)
	}
	if err := keys.CheckCredentialsFile(filepath.Join(dir, "good")); err != nil {
		t.Errorf("good credentials: got %v", err)
	}
	if err := keys.CheckCredentialsFile(filepath.Join(dir, "others read it")); dataset.KindOf(err) !=
		dataset.ErrForbidden {
		t.Errorf("credentials that others read: got %v", err)
	}
}

// No way to print a password shows it.
func TestPasswordIsNotPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(path, []byte("correct horse battery"), 0o600))
	p, err := keys.ReadPassword(t.Context(), nil, dataset.PasswordSource{File: path})
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if said := fmt.Sprintf(verb, p); holds(said, []byte("correct horse battery")) {
			t.Errorf("%s prints %s", verb, said)
		}
	}
}

func TestPasswordPrograms(t *testing.T) {
	for script, want := range map[string]string{
		"echo correct horse":             "",
		"exit 0":                         "is empty: expected the password",
		"echo no such entry >&2; exit 3": "exit status 3: no such entry",
		"head -c 5000 /dev/zero":         "is too long",
		"echo correct horse; echo it >&2; echo correct horse >&2; exit 1": "[left out]",
	} {
		path := filepath.Join(t.TempDir(), "program")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
		runner := &fakes.Recorder{Next: &run.System{}}
		got, err := keys.ReadPassword(t.Context(), runner, dataset.PasswordSource{Exec: path})
		if score := runner.Calls()[0].OOMScore; score != "0" {
			t.Errorf("%s: the kernel spares it: %q", script, score)
		}
		if want == "" {
			if err != nil || string(got.Reveal()) != "correct horse" {
				t.Errorf("%s: got %q, %v", script, got.Reveal(), err)
			}
			continue
		}
		if dataset.KindOf(err) != dataset.ErrForbidden || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "correct horse") {
			t.Errorf("%s: got %v, want %s", script, err, want)
		}
	}
}
