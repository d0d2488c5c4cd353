package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// Pair is a certificate with its key, and the roots that its holder trusts.
type Pair struct {
	Identity Identity
	Key      *ecdsa.PrivateKey
	// Chain begins with the holder's certificate. If the authority was rotated, the current root follows, in the
	// version that the previous root signed.
	Chain []*x509.Certificate
	Roots []*x509.Certificate // the newest first
}

// Files are the paths of the files of a pair.
type Files struct{ Cert, Key, CA string }

// NodeFiles returns the paths of a node's files in a folder.
func NodeFiles(dir string) Files {
	return Files{
		Cert: filepath.Join(dir, "node.pem"),
		Key:  filepath.Join(dir, "node-key.pem"),
		CA:   filepath.Join(dir, bundleFile),
	}
}

// nextKey is the path of a new key until its certificate is in place.
func (f Files) nextKey() string { return f.Key + ".next" }

// Save writes a pair with mode 0600. After a crash at any time, even during repeated calls, LoadPair reads either the
// previous certificate with its key, or the new one. The roots can be the new ones in both cases. The folders must
// exist. The caller must prevent concurrent calls for the same files.
func (p *Pair) Save(f Files) error {
	for _, step := range p.saveSteps(f) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// saveSteps returns the steps of Save in order. A crash can occur between any two.
func (p *Pair) saveSteps(f Files) []func() error {
	return []func() error{
		f.finishSave,
		// Write the roots first: a certificate is useless until its root is trusted.
		func() error { return durable.Replace(f.CA, encodeCerts(p.Roots)) },
		func() error {
			key, err := encodeKey(p.Key)
			if err != nil {
				return err
			}
			return durable.Replace(f.nextKey(), key)
		},
		func() error { return durable.Replace(f.Cert, encodeCerts(p.Chain)) },
		f.installKey,
	}
}

// installKey renames the new key, nextKey, to the path of the key file.
func (f Files) installKey() error {
	if err := os.Rename(f.nextKey(), f.Key); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(f.Key))
}

// finishSave completes a Save that crashed after it wrote the certificate. After such a crash, the only key of the
// certificate is in the file nextKey, which the next Save would overwrite.
func (f Files) finishSave() error {
	certs, err := readCerts(f.Cert)
	if err != nil {
		return nil // without a certificate, no key can be lost
	}
	got, err := readPEM(f.nextKey(), readSecret)
	if err != nil || got.key == nil || !got.key.PublicKey.Equal(certs[0].PublicKey) {
		return nil
	}
	return f.installKey()
}

// WithRoots returns the pair with other roots, given as PEM. changed reports whether they differ from the present ones.
// It fails with ErrCorrupt if roots cannot be parsed.
func (p *Pair) WithRoots(roots string) (next *Pair, changed bool, err error) {
	f, err := parsePEM([]byte(roots))
	if err == nil && len(f.certs) == 0 {
		err = errors.New("expected certificates in PEM format")
	}
	if err != nil {
		return nil, false, dataset.Errorf(dataset.ErrCorrupt, "cannot read the roots of the cluster: %w", err)
	}
	next = &Pair{Identity: p.Identity, Key: p.Key, Chain: p.Chain, Roots: f.certs}
	return next, !slices.EqualFunc(p.Roots, f.certs, (*x509.Certificate).Equal), nil
}

// IsOfNewestRoot reports whether the newest root signed the pair's certificate.
func (p *Pair) IsOfNewestRoot() bool { return p.Chain[0].CheckSignatureFrom(p.Roots[0]) == nil }

// LoadPair reads a pair. It fails with ErrNotFound if a file does not exist, and with ErrCorrupt if a file is damaged,
// if the files do not belong together, or if other users can read the key. It does not check whether the certificate is
// valid now.
func LoadPair(f Files) (*Pair, error) {
	certs, err := readCerts(f.Cert)
	if err != nil {
		return nil, err
	}
	roots, err := readCerts(f.CA)
	if err != nil {
		return nil, err
	}
	key, err := loadKey(f, certs[0])
	if err != nil {
		return nil, err
	}
	p := &Pair{Key: key, Chain: certs, Roots: roots}
	if p.Identity, err = IdentityOf(certs[0]); err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "%s: %w", f.Cert, err)
	}
	return p, nil
}

// loadKey returns the key of a certificate. It reads the key file or, after a crash in Save, the file nextKey.
func loadKey(f Files, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	var first error
	for _, path := range []string{f.Key, f.nextKey()} {
		got, err := readPEM(path, readSecret)
		if err == nil && (got.key == nil || !got.key.PublicKey.Equal(cert.PublicKey)) {
			err = dataset.Errorf(dataset.ErrCorrupt, "%s does not contain the key of the certificate in "+
				"%s", path, f.Cert)
		}
		if err == nil {
			return got.key, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, notFoundError(first, f.Key)
}

func notFoundError(err error, path string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "no such file: %s", path)
	}
	return err
}

func readCerts(path string) ([]*x509.Certificate, error) {
	f, err := readPEM(path, read)
	if err != nil {
		return nil, notFoundError(err, path)
	}
	if len(f.certs) == 0 {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "%s contains no certificate", path)
	}
	return f.certs, nil
}

// maxFile is the maximum size of a file with keys and certificates.
const maxFile = 256 << 10

// pemFile is the parsed content of a PEM file.
type pemFile struct {
	key   *ecdsa.PrivateKey
	certs []*x509.Certificate
}

// readSecret reads a file that only its owner and group may read.
func readSecret(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o007 != 0 {
		return nil, dataset.Errorf(dataset.ErrCorrupt,
			"%s: others can use this key (mode %04o): chmod 0600 it or, if somebody may have read it, create a "+
				"new one", path, st.Mode().Perm())
	}
	return read(path)
}

// read reads a file, but not more than maxFile+1 bytes of it: parsePEM refuses a longer one.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

func readPEM(path string, content func(string) ([]byte, error)) (pemFile, error) {
	b, err := content(path)
	if err != nil {
		return pemFile{}, err
	}
	out, err := parsePEM(b)
	if err != nil {
		return pemFile{}, dataset.Errorf(dataset.ErrCorrupt, "%s: %w", path, err)
	}
	return out, nil
}

// parsePEM reads certificates and at most one key, strictly: unknown content counts as damage.
func parsePEM(b []byte) (f pemFile, err error) {
	if len(b) > maxFile {
		return f, fmt.Errorf("more than %d bytes", maxFile)
	}
	for rest := bytes.TrimSpace(b); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return f, errors.New("expected only PEM blocks")
		}
		switch block.Type {
		case typeCert:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return f, err
			}
			f.certs = append(f.certs, c)
		case typeKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return f, errors.New("cannot read its private key")
			}
			ec, ok := k.(*ecdsa.PrivateKey)
			if !ok || f.key != nil {
				return f, errors.New("expected one ECDSA key")
			}
			f.key = ec
		default:
			return f, fmt.Errorf("unknown block %q", dataset.Clip(block.Type))
		}
	}
	return f, nil
}

// The types of PEM blocks (RFC 7468).
const (
	typeCert    = "CERTIFICATE"
	typeKey     = "PRIVATE KEY"
	typeRequest = "CERTIFICATE REQUEST"
)

func encodeCerts(certs []*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: typeCert, Bytes: c.Raw})...)
	}
	return out
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: typeKey, Bytes: der}), nil
}

// Fingerprint is the SHA-256 of a root.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the fingerprint of a root.
func FingerprintOf(root *x509.Certificate) Fingerprint { return sha256.Sum256(root.Raw) }

// String returns 64 hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }
