package keys

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/url"
	"os"
	"slices"

	"github.com/droverhq/drover/dataset"
)

// RESTCredentials are the credentials for a server of restic's REST protocol.
type RESTCredentials struct {
	User string
	// Secret is the password of the user at the server. It is another one than that of the repository.
	Secret Password
	// Certificates has the certificates of the authorities of the server, in PEM. If empty, those of the host are used.
	Certificates []byte
}

// maxCertificates bounds the certificates in a file with credentials.
const maxCertificates = 256 << 10

// ReadRESTCredentials reads credentials from a file that only root can read. Its first line is
// USER:PASSWORD. Certificates in PEM can follow. The errors are ErrForbidden, and never contain the password.
func ReadRESTCredentials(path string) (c RESTCredentials, err error) {
	source := "credentials file " + dataset.Clip(path)
	f, _, err := openPrivate(path, source)
	if errors.Is(err, os.ErrNotExist) {
		return c, dataset.Errorf(dataset.ErrForbidden, "%s not found (restore it from your copy)", source)
	}
	if err != nil {
		return c, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxKey+maxCertificates+1))
	if err != nil {
		return c, dataset.Errorf(dataset.ErrForbidden, "%s: %v", source, reasonOf(err))
	}
	if len(content) > MaxKey+maxCertificates {
		return c, dataset.Errorf(dataset.ErrForbidden, "%s is too long", source)
	}
	line, rest, _ := bytes.Cut(bytes.TrimSpace(content), []byte("\n"))
	user, secret, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
	if !ok || len(user) == 0 {
		return c, dataset.Errorf(dataset.ErrForbidden, "%s: expected USER:PASSWORD in its first line", source)
	}
	c.User = string(user)
	if c.Secret, err = newPassword(secret, source); err != nil {
		return c, err
	}
	if rest = bytes.TrimSpace(rest); len(rest) > 0 {
		if err := checkCertificates(rest); err != nil {
			return c, dataset.Errorf(dataset.ErrForbidden, "%s: after its first line, expected certificates in PEM: %w",
				source, err)
		}
		c.Certificates = slices.Concat(rest, []byte("\n"))
	}
	return c, nil
}

func checkCertificates(text []byte) error {
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return errors.New("found something else")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
		text = rest
	}
	return nil
}

// AddTo returns a URL with the user and the secret.
func (c RESTCredentials) AddTo(place string) (string, error) {
	u, err := url.Parse(place)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrInvalid, "bad URL")
	}
	u.User = url.UserPassword(c.User, string(c.Secret.secret))
	return u.String(), nil
}
