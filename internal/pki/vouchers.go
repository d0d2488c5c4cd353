package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// maxVouchers is the maximum number of cached certificates. It is larger than the number of members of a cluster.
const maxVouchers = 1 << 14

// vouchers caches which certificates are signed by the roots, and until when. Other roots make the cache empty. A nil
// *vouchers caches nothing.
type vouchers struct {
	mu    sync.Mutex
	roots []*x509.Certificate
	until map[[sha256.Size]byte]time.Time
}

// know reports whether the cache says that the roots have signed a certificate that is valid at that time.
func (v *vouchers) know(leaf *x509.Certificate, roots []*x509.Certificate, now time.Time) bool {
	if v == nil {
		return false
	}
	key := sha256.Sum256(leaf.Raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.until[key]
	return ok && same(v.roots, roots) && !now.After(until)
}

// remember caches a chain that was verified up to its root.
func (v *vouchers) remember(chain, roots []*x509.Certificate) {
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
	if !same(v.roots, roots) || len(v.until) >= maxVouchers {
		v.roots, v.until = roots, nil
	}
	if v.until == nil {
		v.until = map[[sha256.Size]byte]time.Time{}
	}
	v.until[sha256.Sum256(chain[0].Raw)] = until
}

// same reports whether two lists have the same elements in memory: the roots of a pair never change.
func same(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
