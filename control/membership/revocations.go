package membership

import (
	"context"
	"crypto/x509"
	"sync"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

const (
	// RevocationsInterval is how often a replica reads the revocations by other replicas. This replica
	// can accept a certificate for that long after another replica revoked it.
	RevocationsInterval = 5 * time.Second
	// revocationsTimeout bounds such a read, because a request waits for it.
	revocationsTimeout = 2 * time.Second
)

// revocationList is this replica's list of revoked certificates. It is kept in memory because every request needs it.
type revocationList struct {
	mu          sync.Mutex
	readEnded   sync.Cond     // a read has ended
	reading     bool          // a read is in progress
	attempted   bool          // a read has ended
	revocations int           // how many revocations this replica has made
	included    int           // the value of revocations when the last finished read began
	at          time.Duration // when the last read ended, by the steady clock
	err         error         // the error of the last read
	known       []record.Revocation
	loaded      bool // a read has succeeded
}

// Revoked fails with dataset.ErrForbidden for a revoked certificate, and with ErrUnavailable until the store has
// answered for the first time. If the store stops answering, the last list is used. A control replica passes Revoked
// to pki.NewCredentials.
func (a *Admission) Revoked(id pki.Identity, cert *x509.Certificate) error {
	known, err := a.revocations()
	if err != nil {
		return err
	}
	for _, r := range known {
		switch {
		case id.Kind == pki.Node && r.Node == id.Node:
			return dataset.Errorf(dataset.ErrRemoved, "%s was removed from the cluster at %s", id,
				r.At.Format(time.RFC3339))
		case id.Kind == pki.Operator && r.Operator == id.Name && !pki.IssuedAt(cert).After(r.At.Add(pki.Skew)):
			return dataset.Errorf(dataset.ErrForbidden,
				"the certificate of %s was revoked at %s, with all that were issued until %s, because clocks may "+
					"differ (an admin can issue another: drover ca issue)",
				id, r.At.Format(time.RFC3339), r.At.Add(pki.Skew).Format(time.RFC3339))
		}
	}
	return nil
}

// revocations returns the list. If a read of the store is due, one request reads the store and waits for the result.
// The other requests use the present list, except in two cases. They wait too if no list was read yet. They also wait
// if this replica has revoked something since the last read began, because the present list may lack that revocation.
func (a *Admission) revocations() ([]record.Revocation, error) {
	r := &a.revoked
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.reading && (!r.loaded || r.included < r.revocations) {
		r.readEnded.Wait()
	}
	now := a.Ledger.Clock.Steady()
	if r.reading || r.attempted && r.included == r.revocations && now-r.at < RevocationsInterval {
		return r.known, r.checkLoaded()
	}
	r.reading = true
	asked := r.revocations
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), revocationsTimeout)
	known, err := record.ListAll[record.Revocation](record.NewTx(ctx, a.Ledger.Store), record.RevokedPrefix)
	cancel()
	r.mu.Lock()
	r.reading, r.attempted, r.included, r.at = false, true, asked, a.Ledger.Clock.Steady()
	if r.err = err; err == nil {
		r.known, r.loaded = known, true
	}
	r.readEnded.Broadcast()
	return r.known, r.checkLoaded()
}

// checkLoaded fails while no read has succeeded.
func (r *revocationList) checkLoaded() error {
	if r.loaded {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnavailable,
		"whether certificates were revoked is unknown: %w (try again in a moment)", r.err)
}

// invalidate makes the next request read the store.
func (r *revocationList) invalidate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revocations++
}

// ReloadRevocations makes the next request read the revocations from the store.
func (a *Admission) ReloadRevocations() { a.revoked.invalidate() }

// Revoke records a revocation, and removes some of those that have no effect any more. After the commit, the caller
// must call ReloadRevocations.
func (a *Admission) Revoke(t *record.Tx, key string, r record.Revocation) error {
	entries, err := t.List(record.RevokedPrefix, "", 0)
	if err != nil {
		return err
	}
	n := 0
	for _, e := range entries {
		var old record.Revocation
		if err := record.Decode(e.Key, e.Value, &old); err != nil {
			return err
		}
		if e.Key != key && n < tokensPerTxn && r.At.After(old.Until) {
			t.Delete(e.Key)
			n++
		}
	}
	return t.Put(key, r)
}

// RevokeOperator revokes all certificates that were issued to operators of a name so far. It also revokes those that
// are issued in the next ten minutes by the clock of the issuer (pki.Skew), because that clock can differ from the
// clock of this service. It takes effect at once at this replica, and within seconds at the others. A repeated call
// also revokes the certificates that were issued after that time. It fails with dataset.ErrInvalid for an invalid name.
func (a *Admission) RevokeOperator(ctx context.Context, name string) error {
	if err := pki.CheckName(name); err != nil {
		return err
	}
	now := a.Ledger.Clock.Now()
	_, err := a.Ledger.Update(ctx, func(t *record.Tx) error {
		return a.Revoke(t, record.RevokedOperatorKey(name), record.Revocation{
			Operator: name, By: api.PrincipalOf(ctx).String(), At: now, Until: now.Add(pki.OperatorLife + time.Hour),
		})
	})
	a.revoked.invalidate()
	return err
}

// Trust returns what members trust: the root certificates, and the revoked certificates.
func (a *Admission) Trust(context.Context) (api.Trust, error) {
	ca, err := a.authority()
	if err != nil {
		return api.Trust{}, err
	}
	known, err := a.revocations()
	if err != nil {
		return api.Trust{}, err
	}
	out := api.Trust{Cluster: ca.Cluster(), Roots: ca.Bundle(), Revoked: make([]api.Revoked, 0, len(known))}
	for _, r := range known {
		out.Revoked = append(out.Revoked, api.Revoked{Node: r.Node, Operator: r.Operator, At: r.At})
	}
	return out, nil
}
