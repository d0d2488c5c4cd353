package pki

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/google/uuid"
)

// Forge makes an authority that claims to be that of a cluster, as a stranger could.
func Forge(cluster uuid.UUID, now time.Time) (*Authority, error) {
	a := &Authority{cluster: cluster}
	var err error
	a.key, a.root, err = newRoot(cluster, now)
	return a, err
}

// Misuse signs a certificate that an authority never signs.
func (a *Authority) Misuse(id Identity, now time.Time, change func(*x509.Certificate)) (*Pair, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	t := leafTemplate(id, now, now.Add(time.Hour))
	change(t)
	leaf, err := sign(t, a.root, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return &Pair{Identity: id, Key: key, Chain: []*x509.Certificate{leaf}, Roots: a.Roots()}, nil
}

// Credulous returns the configuration of a client that trusts every server.
func (p *Pair) Credulous() *tls.Config {
	c := &Credentials{}
	c.pair.Store(p)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*c.presented()}}
}

// SaveActs returns the number of steps of a Save.
func (p *Pair) SaveActs(f Files) int { return len(p.saveSteps(f)) }

// SaveCut does the first steps of a Save, as if a crash interrupted it after them.
func (p *Pair) SaveCut(f Files, after int) error {
	for _, act := range p.saveSteps(f)[:after] {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}
