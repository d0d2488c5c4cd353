package pki

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
)

// The validity of the certificates of an authority, of operators, and of nodes and control replicas. The latter are
// renewed when a third of the validity remains: see RenewAt.
const (
	rootLife     = 10 * 365 * 24 * time.Hour
	OperatorLife = 365 * 24 * time.Hour
	MemberLife   = 30 * 24 * time.Hour
)

// Skew is the tolerated difference of clocks: a certificate is valid from this long before its creation.
const Skew = 10 * time.Minute

// The files in an authority's folder. The first one contains its whole state. The second one is the bundle of roots
// that others need to trust the authority. Operators copy it to other hosts.
const (
	stateFile  = "ca-key.pem"
	bundleFile = "ca.pem"
)

// Authority is the certificate authority of a cluster. Safe for concurrent use.
type Authority struct {
	cluster uuid.UUID
	key     *ecdsa.PrivateKey
	root    *x509.Certificate
	cross   *x509.Certificate   // the root, signed by the previous root; nil if there was none
	old     []*x509.Certificate // previous roots that are still trusted
}

// Create creates the authority of a new cluster in a folder. It creates the folder, with mode 0700, if it does not
// exist. It fails with ErrExists if the folder is not empty.
func Create(dir string, now time.Time) (a *Authority, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for _, name := range []string{stateFile, bundleFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, dataset.Errorf(dataset.ErrExists,
				"%s contains a certificate authority: choose another folder, or use the existing authority "+
					"(every certificate of its cluster depends on it)", dir)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return e.Name() != lockFile }); i >= 0 {
		return nil, dataset.Errorf(dataset.ErrExists,
			"%s contains other files (%s): choose a new folder, which is then copied unchanged to each control "+
				"host", dir,
			dataset.Clip(entries[i].Name()))
	}
	a = &Authority{cluster: uuid.New()}
	if a.key, a.root, err = newRoot(a.cluster, now); err != nil {
		return nil, err
	}
	return a, a.save(dir)
}

// lockFile is the file in an authority's folder that lock locks. It exists only while the lock is held.
const lockFile = "lock"

// lockWait bounds the wait for another process that changes the authority.
const lockWait = 5 * time.Second

// lock prevents other processes from changing an authority's folder. It fails with ErrNotFound if there is no such
// folder, and with ErrInUse if another process holds the lock for longer than lockWait.
func lock(dir string) (unlock func() error, err error) {
	unlock, err = safefile.Lock(context.Background(), filepath.Join(dir, lockFile), lockWait)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dataset.Errorf(dataset.ErrNotFound, "no such folder: %s", dir)
	}
	return unlock, err
}

func newRoot(cluster uuid.UUID, now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	t := rootTemplate(cluster, now)
	root, err := sign(t, t, &key.PublicKey, key)
	return key, root, err
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// rootTemplate returns the template of a root. The root can sign its successor, and certificates whose names belong to
// its cluster.
func rootTemplate(cluster uuid.UUID, now time.Time) *x509.Certificate {
	begin := now.Add(-Skew).UTC().Truncate(time.Second)
	return &x509.Certificate{
		Subject: pkix.Name{
			Organization: []string{"drover"},
			CommonName:   "drover cluster " + cluster.String(),
			SerialNumber: begin.Format(time.RFC3339),
		},
		NotBefore:             begin,
		NotAfter:              begin.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,

		PermittedDNSDomainsCritical: true, // makes all name constraints critical, in spite of its name
		PermittedURIDomains:         []string{cluster.String()},
		ExcludedDNSDomains:          []string{""},
		ExcludedEmailAddresses:      []string{""},
		ExcludedIPRanges: []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	}
}

func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("create a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Load reads the authority of a folder. It fails with ErrNotFound if there is none, and with ErrCorrupt if it is
// damaged or if other users can read its key.
func Load(dir string) (*Authority, error) {
	path := filepath.Join(dir, stateFile)
	blocks, err := readPEM(path, readSecret)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dataset.Errorf(dataset.ErrNotFound,
			"no certificate authority in %s: if it is in another folder, add --dir DIR; otherwise create one with "+
				"`drover ca init --dir DIR`, or copy the folder from where it was created", dir)
	}
	if err != nil {
		return nil, err
	}
	a, err := authorityOf(blocks)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt,
			"certificate authority %s: %w (copy the folder again from another control host)", path, err)
	}
	return a, nil
}

// authorityOf returns the authority whose state is f: the key, its root, the same root signed by the previous root (if
// there was one), and the previous roots.
func authorityOf(f pemFile) (*Authority, error) {
	if f.key == nil || len(f.certs) == 0 {
		return nil, errors.New("expected a key and a certificate")
	}
	a := &Authority{key: f.key, root: f.certs[0], old: f.certs[1:]}
	if !a.key.PublicKey.Equal(a.root.PublicKey) || !a.root.IsCA || len(a.root.PermittedURIDomains) != 1 {
		return nil, errors.New("its first certificate does not match its key, or is not of a drover cluster")
	}
	var err error
	if a.cluster, err = uuid.Parse(a.root.PermittedURIDomains[0]); err != nil {
		return nil, err
	}
	if len(a.old) > 0 && a.key.PublicKey.Equal(a.old[0].PublicKey) {
		a.cross, a.old = a.old[0], a.old[1:]
	}
	return a, nil
}

// save writes the bundle of roots and the state. If the new bundle adds a root, save writes the bundle first. If it
// removes one, save writes the state first. So the bundle always contains the root that signs, even in a copy of the
// folder that is made while save runs.
func (a *Authority) save(dir string) error {
	state, err := encodeKey(a.key)
	if err != nil {
		return err
	}
	certs := []*x509.Certificate{a.root}
	if a.cross != nil {
		certs = append(certs, a.cross)
	}
	state = append(state, encodeCerts(append(certs, a.old...))...)
	bundle := encodeCerts(a.Roots())
	before, err := os.ReadFile(filepath.Join(dir, bundleFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	first, second := func() error { return durable.Replace(filepath.Join(dir, bundleFile), bundle) },
		func() error { return durable.Replace(filepath.Join(dir, stateFile), state) }
	if bytes.Contains(before, bundle) {
		first, second = second, first
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// Cluster returns the cluster of the authority.
func (a *Authority) Cluster() uuid.UUID { return a.cluster }

// Roots returns the roots that the members of the cluster trust, the newest first. There are several during a rotation.
func (a *Authority) Roots() []*x509.Certificate {
	return append([]*x509.Certificate{a.root}, a.old...)
}

// Bundle returns Roots as PEM.
func (a *Authority) Bundle() string { return string(encodeCerts(a.Roots())) }

// Fingerprint returns the fingerprint of the newest root.
func (a *Authority) Fingerprint() Fingerprint { return FingerprintOf(a.root) }

// Issue creates a key, and a certificate for the key. If id names no cluster, the cluster of this authority is used. It
// fails with ErrInvalid for another cluster, for an invalid identity (see Identity.Check), and while the clock shows a
// time at which the authority is not valid.
func (a *Authority) Issue(id Identity, now time.Time) (*Pair, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	chain, err := a.issue(&id, &key.PublicKey, now)
	if err != nil {
		return nil, err
	}
	return &Pair{Identity: id, Key: key, Chain: chain, Roots: a.Roots()}, nil
}

// Sign creates a certificate for the key of a request (see NewRequest). It ignores names in the request. It fails with
// ErrInvalid for data that is not a request, a request without a valid signature of its own key, another kind of key,
// and a request of more than 16 KiB. It also returns the errors of Issue.
func (a *Authority) Sign(request []byte, id Identity, now time.Time) (Signed, error) {
	pub, err := requestKey(request)
	if err != nil {
		return Signed{}, err
	}
	chain, err := a.issue(&id, pub, now)
	if err != nil {
		return Signed{}, err
	}
	return Signed{Chain: string(encodeCerts(chain)), Roots: string(encodeCerts(a.Roots()))}, nil
}

func (a *Authority) issue(id *Identity, pub *ecdsa.PublicKey, now time.Time) ([]*x509.Certificate, error) {
	id.Cluster = cmp.Or(id.Cluster, a.cluster)
	if id.Cluster != a.cluster {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"%s belongs to cluster %s, and this is the certificate authority of cluster %s", id, id.Cluster, a.cluster)
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	life := MemberLife
	if id.Kind == Operator {
		life = OperatorLife
	}
	begin := now.Add(-Skew).UTC().Truncate(time.Second)
	end := begin.Add(life)
	if end.After(a.root.NotAfter) {
		end = a.root.NotAfter
	}
	if !now.Before(end) || now.Before(a.root.NotBefore) {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"no certificate for %s: this host's clock shows %s, the cluster's certificate authority is valid "+
				"from %s to %s: set the clock, or, if it is right, rotate the authority (drover ca rotate)",
			id, formatTime(now), formatTime(a.root.NotBefore), formatTime(a.root.NotAfter))
	}
	leaf, err := sign(leafTemplate(*id, begin, end), a.root, pub, a.key)
	if err != nil {
		return nil, err
	}
	chain := []*x509.Certificate{leaf}
	if a.cross != nil {
		chain = append(chain, a.cross)
	}
	return chain, nil
}

func leafTemplate(id Identity, begin, end time.Time) *x509.Certificate {
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	if id.Kind == Operator {
		uses = uses[:1]
	}
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"drover"}, CommonName: id.Name},
		URIs:                  []*url.URL{id.URI()},
		NotBefore:             begin,
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           uses,
		BasicConstraintsValid: true,
	}
}

// RenewAt returns the time to renew a certificate, when a third of its validity remains.
func RenewAt(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// ReportAt returns the time from which a certificate that was not replaced is reported: halfway between RenewAt and its
// end, and at most MemberLife before its end.
func ReportAt(c *x509.Certificate) time.Time {
	due := RenewAt(c)
	half := due.Add(c.NotAfter.Sub(due) / 2)
	if earliest := c.NotAfter.Add(-MemberLife); half.Before(earliest) {
		return earliest
	}
	return half
}

// IssuedAt returns the time at which a certificate was created, by the issuer's clock.
func IssuedAt(c *x509.Certificate) time.Time { return c.NotBefore.Add(Skew) }

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
