package pki

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/droverhq/drover/dataset"
)

// overlap is how long an old root is trusted beside the new one: until the last node certificate that the old root
// signed has expired.
const overlap = MemberLife

// Rotate creates a new key and root for the authority in a folder. The new key signs from then on, and the old root
// remains trusted until FinishRotation. Members without the new root trust the new certificates too, because the old
// root has signed the new one. So the folder can be copied to control hosts before or after certificates are renewed on
// nodes. It fails with ErrConflict while the previous rotation is not finished.
func Rotate(dir string, now time.Time) (_ *Authority, err error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	a, err := Load(dir)
	if err != nil {
		return nil, err
	}
	if len(a.old) > 0 {
		return nil, dataset.Errorf(dataset.ErrConflict,
			"certificate authority %s was rotated on %s and the previous root is still trusted: end that first "+
				"(drover ca rotate --finish)", dir, formatTime(a.root.NotBefore))
	}
	next := &Authority{cluster: a.cluster, old: []*x509.Certificate{a.root}}
	if next.key, next.root, err = newRoot(a.cluster, now); err != nil {
		return nil, err
	}
	cross := rootTemplate(a.cluster, now)
	cross.Subject, cross.SubjectKeyId = next.root.Subject, next.root.SubjectKeyId
	cross.MaxPathLen, cross.MaxPathLenZero = 0, true
	if cross.NotAfter.After(a.root.NotAfter) {
		cross.NotAfter = a.root.NotAfter
	}
	if next.cross, err = sign(cross, a.root, &next.key.PublicKey, a.key); err != nil {
		return nil, err
	}
	return next, next.save(dir)
}

// FinishRotation ends the trust in the old root, and so in all certificates that it signed. It fails with ErrConflict
// in the first 30 days, while nodes may still have such certificates, unless force is set. Use force if another person
// may have the old key. It does nothing if no rotation is under way.
func FinishRotation(dir string, force bool, now time.Time) (_ *Authority, err error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	a, err := Load(dir)
	if err != nil || len(a.old) == 0 {
		return a, err
	}
	if ready := a.root.NotBefore.Add(Skew + overlap); now.Before(ready) && !force {
		return nil, dataset.Errorf(dataset.ErrConflict,
			"certificate authority %s: the old root is trusted until %s at least, because nodes have "+
				"certificates of it until then (--force ends that now: nodes whose certificate was not renewed since "+
				"must join again)", dir, formatTime(ready))
	}
	a.cross, a.old = nil, nil
	return a, a.save(dir)
}

// Rotating reports whether an old root is still trusted, and when the new root was created.
func (a *Authority) Rotating() (since time.Time, ok bool) {
	return a.root.NotBefore.Add(Skew), len(a.old) > 0
}
