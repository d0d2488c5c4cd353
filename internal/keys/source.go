package keys

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// KeyRequest describes the reason of a request for a key. A key program reads it as JSON.
type KeyRequest struct {
	Profile string    `json:"profile"`
	Dataset uuid.UUID `json:"dataset"` // uuid.Nil for a check whether the key is available
}

// Read reads the key from the source that a profile names. Its errors are ErrForbidden, and name the remedy.
func Read(ctx context.Context, runner run.Runner, from dataset.KeySource, ask KeyRequest) (Key, error) {
	if from.KeyFile != "" {
		return ReadFile(from.KeyFile)
	}
	return runProgram(ctx, runner, from, ask)
}

func refuse(format string, args ...any) (Key, error) {
	return Key{}, dataset.Errorf(dataset.ErrForbidden, format, args...)
}

// ReadFile reads a key from a file that only root can read. Its errors are ErrForbidden, and name the remedy.
func ReadFile(path string) (Key, error) {
	source := "key file " + dataset.Clip(path)
	f, size, err := openPrivate(path, source)
	if errors.Is(err, os.ErrNotExist) {
		return refuse("%s not found (restore it from your copy; if nothing is encrypted by it yet: (umask 077; "+
			"head -c 64 /dev/urandom > %s))", source, path)
	}
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	if size < MinKey || size > MaxKey {
		return refuse("%s has %d bytes: a key has %d to %d (restore it from your copy; if nothing is encrypted "+
			"by it yet: head -c 64 /dev/urandom > FILE)", source, size, MinKey, MaxKey)
	}
	secret, err := io.ReadAll(io.LimitReader(f, MaxKey+1))
	if err != nil {
		return refuse("%s: %v", source, reasonOf(err))
	}
	return New(secret, source)
}

// openPrivate opens a file that only root can read or change, and returns its size. source is what errors call the
// file. Only if there is no such file, the error is os.ErrNotExist. Every other error is ErrForbidden.
func openPrivate(path, source string) (f *os.File, size int64, err error) {
	refuse := func(format string, args ...any) error {
		return dataset.Errorf(dataset.ErrForbidden, format, args...)
	}
	if !filepath.IsAbs(path) {
		return nil, 0, refuse("%s: expected an absolute path", source)
	}
	// With O_NONBLOCK, the open does not wait if the name is a FIFO.
	f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, 0, os.ErrNotExist
	case errors.Is(err, unix.ELOOP):
		return nil, 0, refuse("%s is a symbolic link: use the path of the file itself", source)
	case err != nil:
		return nil, 0, refuse("%s: %v", source, reasonOf(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			f = nil
		}
	}()
	var st, in unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return f, 0, refuse("%s: %v", source, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return f, 0, refuse("%s is not a file", source)
	case st.Uid != 0:
		return f, 0, refuse("%s belongs to user %d: chown root %s", source, st.Uid, path)
	case st.Mode&0o177 != 0:
		return f, 0, refuse("%s has mode %04o, so that others can read or change it: chmod 600 %s", source,
			st.Mode&0o7777, path)
	}
	if err := unix.Stat(filepath.Dir(path), &in); err != nil {
		return f, 0, refuse("%s: %v", source, err)
	}
	if in.Mode&0o002 != 0 && in.Mode&unix.S_ISVTX == 0 {
		return f, 0, refuse("%s is in a folder of mode %04o, so that others can remove or replace it: chmod o-w %s",
			source, in.Mode&0o7777, filepath.Dir(path))
	}
	return f, st.Size, nil
}

// reasonOf returns an error without its path and without its type. With the type, a missing key file could be mistaken
// for another missing object.
func reasonOf(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return errors.New(err.Error())
}

func runProgram(ctx context.Context, runner run.Runner, from dataset.KeySource, ask KeyRequest) (Key, error) {
	source := "key program " + dataset.Clip(from.Exec[0])
	in, err := json.Marshal(ask)
	if err != nil {
		return refuse("%s: %v", source, err)
	}
	timeout := time.Duration(from.Timeout)
	timeout = cmp.Or(timeout, time.Duration(dataset.DefaultKeyTimeout))
	var out bounded
	_, err = runner.Run(ctx, run.Command{
		Name:    from.Exec[0],
		Args:    from.Exec[1:],
		Timeout: timeout,
		Stdin:   bytes.NewReader(append(in, '\n')),
		Stdout:  &out,
	})
	if err != nil {
		reason := failureReason(err, out.buf)
		if errors.Is(err, run.ErrTimeout) {
			reason += fmt.Sprintf(" (its limit is %s: timeout, beside exec in the profile)", timeout)
		}
		return refuse("%s: %s", source, reason)
	}
	return New(out.buf, "the output of "+source)
}

// bounded keeps the first bytes that are written to it. It keeps one byte more than the longest key has, so that a key
// that is too long is noticed.
type bounded struct{ buf []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.buf = append(b.buf, p[:min(len(p), MaxKey+1-len(b.buf))]...)
	return len(p), nil
}

// secretLike matches text that could be a key or a part of one: at least 24 characters without a blank.
func secretLike() *regexp.Regexp { return regexp.MustCompile(`[^\s.:]{24,}`) }

// word matches one group of letters and digits. Any other characters separate the groups.
func word() *regexp.Regexp { return regexp.MustCompile(`[0-9A-Za-z]+`) }

// withoutDigits replaces each sequence of groups of hexadecimal or decimal digits by "[left out]" if the sequence has
// at least minDigits digits, because it could be a part of a key. Programs such as hexdump, xxd, openssl and debuggers
// print bytes in this form.
func withoutDigits(text []byte) []byte {
	const minDigits = 24
	var out []byte
	from, to, digits, done := -1, 0, 0, 0
	end := func() {
		if digits >= minDigits {
			out = append(append(out, text[done:from]...), "[left out]"...)
			done = to
		}
		from, digits = -1, 0
	}
	for _, at := range word().FindAllIndex(text, -1) {
		group := bytes.TrimLeft(bytes.ToLower(text[at[0]:at[1]]), "x")
		group = bytes.TrimPrefix(group, []byte("0x"))
		if len(bytes.Trim(group, "0123456789abcdef")) > 0 {
			end()
			continue
		}
		if from < 0 {
			from = at[0]
		}
		to, digits = at[1], digits+len(group)
	}
	end()
	return append(out, text[done:]...)
}

// leaks reports whether a text contains eight consecutive bytes of the program's output. It recognizes the bytes
// themselves and their hexadecimal digits, with any separators. It does not recognize other forms, such as octal
// digits: withoutDigits and secretLike remove long ones.
func leaks(text, printed []byte) bool {
	const part = 8
	plain := bytes.Join(word().FindAll(bytes.ToLower(text), -1), nil)
	for at := 0; at+part <= len(printed); at++ {
		p := printed[at : at+part]
		if bytes.Contains(text, p) || bytes.Contains(plain, []byte(hex.EncodeToString(p))) {
			return true
		}
	}
	return false
}

// failureReason returns the reason why a program failed, without the program's output. Neither the key nor a text that
// looks like a key may appear in an error.
func failureReason(err error, printed []byte) string {
	var failed *run.Error
	if !errors.As(err, &failed) {
		return reasonOf(err).Error()
	}
	line := failed.Err.Error()
	text := []byte(failed.Stderr)
	if n := bytes.TrimSpace(printed); len(n) > 0 {
		text = bytes.ReplaceAll(text, n, []byte("[left out]"))
	}
	text = withoutDigits(secretLike().ReplaceAll(text, []byte("[left out]")))
	if leaks(text, bytes.TrimSpace(printed)) {
		text = []byte("[left out]")
	}
	text = bytes.Join(bytes.Fields(text), []byte(" "))
	if len(text) > 0 {
		line += ": " + dataset.Clip(string(text))
	}
	return line
}

// Password is the password of a repository of backups. When it is printed, it does not appear.
type Password struct{ secret []byte }

// ReadPassword reads a password from a file that only root can read, or from the output of a program. White space
// around the password is not part of the password: restic(1) reads such a file in the same way. The errors are
// ErrForbidden, and name the remedy.
func ReadPassword(ctx context.Context, runner run.Runner, from dataset.PasswordSource) (Password, error) {
	if from.Exec != "" {
		return printedPassword(ctx, runner, from.Exec)
	}
	path := from.File
	source := "password file " + dataset.Clip(path)
	f, _, err := openPrivate(path, source)
	if errors.Is(err, os.ErrNotExist) {
		return Password{}, dataset.Errorf(dataset.ErrForbidden, "%s not found (restore it from your copy; if no "+
			"repository has this password yet: (umask 077; head -c 30 /dev/urandom | base64 > %s))", source, path)
	}
	if err != nil {
		return Password{}, err
	}
	defer f.Close()
	secret, err := io.ReadAll(io.LimitReader(f, MaxKey+1))
	if err != nil {
		return Password{}, dataset.Errorf(dataset.ErrForbidden, "%s: %v", source, reasonOf(err))
	}
	return newPassword(secret, source)
}

// printedPassword runs the program of a password. It gets no arguments and no input.
func printedPassword(ctx context.Context, runner run.Runner, program string) (Password, error) {
	source := "password program " + dataset.Clip(program)
	timeout := time.Duration(dataset.DefaultKeyTimeout)
	var out bounded
	_, err := runner.Run(ctx, run.Command{Name: program, Timeout: timeout, Stdout: &out, OOMScore: "0"})
	if err != nil {
		reason := failureReason(err, out.buf)
		if errors.Is(err, run.ErrTimeout) {
			reason += fmt.Sprintf(" (its limit is %s)", timeout)
		}
		return Password{}, dataset.Errorf(dataset.ErrForbidden, "%s: %s", source, reason)
	}
	return newPassword(out.buf, "the output of "+source)
}

func newPassword(secret []byte, source string) (Password, error) {
	refuse := func(format string, args ...any) (Password, error) {
		return Password{}, dataset.Errorf(dataset.ErrForbidden, format, args...)
	}
	if len(secret) > MaxKey {
		return refuse("%s is too long: a password has at most %d bytes", source, MaxKey)
	}
	if secret = bytes.TrimSpace(secret); len(secret) == 0 {
		return refuse("%s is empty: expected the password", source)
	}
	if bytes.ContainsAny(secret, "\n\r\x00") {
		return refuse("%s has several lines: a password is one line", source)
	}
	return Password{secret}, nil
}

// CheckCredentialsFile checks that only root can read or change the file with the credentials of an object store. Its
// errors are ErrForbidden, and name the remedy.
func CheckCredentialsFile(path string) error {
	source := "credentials file " + dataset.Clip(path)
	f, _, err := openPrivate(path, source)
	if errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrForbidden, "%s not found (restore it from your copy)", source)
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Reveal returns the password itself.
func (p Password) Reveal() []byte { return bytes.Clone(p.secret) }

// String hides the password.
func (p Password) String() string { return "[a password]" }

// GoString hides the password.
func (p Password) GoString() string { return p.String() }

var _ fmt.GoStringer = Password{}
