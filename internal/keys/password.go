package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

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
