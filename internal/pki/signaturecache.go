package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// maxCachedSignatures is the maximum number of cached certificates. It is larger than the number of members of a
// cluster.
const maxCachedSignatures = 1 << 14

// signatureCache caches which certificates are signed by the roots, and until when. The cache is cleared if the roots
// change. A nil *signatureCache caches nothing.
type signatureCache struct {
	mu    sync.Mutex
	roots []*x509.Certificate
	until map[[sha256.Size]byte]time.Time
}

// has reports whether the cache contains a certificate, with the same roots, that is valid at now.
func (v *signatureCache) has(leaf *x509.Certificate, roots []*x509.Certificate, now time.Time) bool {
	if v == nil {
		return false
	}
	key := sha256.Sum256(leaf.Raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.until[key]
	return ok && sameElements(v.roots, roots) && !now.After(until)
}

// add caches a chain that was verified up to its root.
func (v *signatureCache) add(chain, roots []*x509.Certificate) {
	if v == nil {
		return
	}
	until := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !sameElements(v.roots, roots) || len(v.until) >= maxCachedSignatures {
		v.roots, v.until = roots, nil
	}
	if v.until == nil {
		v.until = map[[sha256.Size]byte]time.Time{}
	}
	v.until[sha256.Sum256(chain[0].Raw)] = until
}

// sameElements reports whether two lists have the same elements in memory. That is sufficient, because the roots of a
// pair never change.
func sameElements(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
