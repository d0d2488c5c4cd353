package pki

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/google/uuid"
)

// Forge makes the authority of a stranger who says that it is a cluster's.
func Forge(cluster uuid.UUID, now time.Time) (*Authority, error) {
	a := &Authority{cluster: cluster}
	var err error
	a.key, a.root, err = newRoot(cluster, now)
	return a, err
}

// Misuse signs what an authority never signs.
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

// Credulous is a client that believes whoever answers.
func (p *Pair) Credulous() *tls.Config {
	c := &Credentials{}
	c.pair.Store(p)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*c.presented()}}
}

// SaveActs is of how many acts a Save is.
func (p *Pair) SaveActs(f Files) int { return len(p.saveSteps(f)) }

// SaveCut is a Save that a crash cuts short after so many acts.
func (p *Pair) SaveCut(f Files, after int) error {
	for _, act := range p.saveSteps(f)[:after] {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}
