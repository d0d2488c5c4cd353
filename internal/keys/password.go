package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/droverhq/drover/dataset"
)

// Password is the password of a repository of backups. When it is printed, it does not appear.
type Password struct{ secret []byte }

// ReadPasswordFile reads a password from a file that only root can read. White space around the password is not part of
// it, as restic(1) reads such a file too. The errors are ErrForbidden, and name the remedy.
func ReadPasswordFile(path string) (Password, error) {
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
	if len(secret) > MaxKey {
		return Password{}, dataset.Errorf(dataset.ErrForbidden, "%s is too long: a password has at most %d bytes",
			source, MaxKey)
	}
	if secret = bytes.TrimSpace(secret); len(secret) == 0 {
		return Password{}, dataset.Errorf(dataset.ErrForbidden, "%s is empty (restore it from your copy)", source)
	}
	if bytes.ContainsAny(secret, "\n\r\x00") {
		return Password{}, dataset.Errorf(dataset.ErrForbidden, "%s has several lines: a password is one line", source)
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
