// Package membership decides which nodes belong to a cluster, and which of them are alive.
//
// Members handles agents and control replicas. It registers agents with their pools and keeps the sessions by which
// agents and replicas count as alive. It records which nodes are unreachable, fenced or cordoned, and suspends
// automatic failover when many nodes are lost at once. It lists all members in the catalog.
//
// Admission handles certificates. It makes join tokens, admits hosts, issues certificates, and answers whether a
// certificate is revoked. GenerationRecorder compares the generations of pools, to find a pool whose disk was restored
// from a backup.
//
// All lasting state is in the store. Members keeps in memory the sessions that agents renew here, the session of this
// service, for how long it has seen each node as unreachable, and when it last checked for lost nodes. Admission keeps
// the known revocations in memory, because every request needs them, and GenerationRecorder the generations that agents
// raise too often to write them to the store. A mutex protects each of these.
//
// Where to change what: how long a session lasts, and how often the background work runs, is in replica.go (Timing).
// When a node counts as unreachable is in live.go, when automatic failover stops in massloss.go, and what an agent may
// register in nodes.go and pools.go. Who may join is in admission.go, and which generations are written to the store in
// generation.go.
package membership

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Validity of join tokens.
const (
	tokenTTL      = time.Hour
	tokenShortest = time.Minute
	tokenLongest  = 7 * 24 * time.Hour
	// TokenKept is how long the record of a token stays after the token has expired, so that a host that uses the
	// token gets a clear error.
	TokenKept = 24 * time.Hour
)

// Admission decides who may connect: it makes join tokens, admits the hosts that have one, issues certificates, and
// revokes them. It keeps the revocations in memory, because every request checks them. Safe for concurrent use.
type Admission struct {
	Ledger *record.Ledger
	// Authority returns the authority of the cluster; nil if there is no cluster. It may read the authority again
	// each time.
	Authority func() (*pki.Authority, error)
	revoked   revocationList
}

// NewAdmission returns an Admission that has read nothing yet.
func NewAdmission(l *record.Ledger, authority func() (*pki.Authority, error)) *Admission {
	a := &Admission{Ledger: l, Authority: authority}
	a.revoked.readEnded.L = &a.revoked.mu
	return a
}

// authority returns the authority of the cluster. It fails with dataset.ErrUnsupported if there is none.
func (a *Admission) authority() (*pki.Authority, error) {
	if a.Authority == nil {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"this drover is a single host: only control replicas of a cluster (drover control) accept hosts")
	}
	return a.Authority()
}

// MakeToken makes a join token and records its hash. It fails with dataset.ErrInvalid for an invalid name or validity,
// and with ErrForbidden for the name of a node that was removed.
func (a *Admission) MakeToken(ctx context.Context, in api.NewToken) (out api.JoinToken, err error) {
	ttl := tokenTTL
	if in.TTL != "" {
		if ttl, err = dataset.ParseDuration(in.TTL); err != nil || ttl < tokenShortest || ttl > tokenLongest {
			return out, dataset.Errorf(dataset.ErrInvalid,
				"bad time %q for a join token: expected %s to %s, such as 1h", dataset.Clip(in.TTL), tokenShortest,
				tokenLongest)
		}
	}
	if in.Name != "" {
		if err := pki.CheckName(in.Name); err != nil {
			return out, err
		}
	}
	ca, err := a.authority()
	if err != nil {
		return out, err
	}
	secret := pki.NewToken(ca.Fingerprint())
	rec := record.Token{Name: in.Name, By: api.PrincipalOf(ctx).String(), Expires: a.Ledger.Clock.Now().Add(ttl)}
	_, err = a.Ledger.Update(ctx, func(t *record.Tx) error {
		rec.Node = uuid.Nil
		if in.Name != "" {
			n, ok, err := nodeByName(t, in.Name)
			if err != nil {
				return err
			}
			if ok && !n.Removed.IsZero() {
				return dataset.Errorf(dataset.ErrForbidden,
					"node %s was removed and cannot return: join under another --node-name, with an empty "+
						"--root", n.Name)
			}
			rec.Node = n.ID
		}
		if err := a.dropTokens(t); err != nil {
			return err
		}
		return t.Put(record.TokenKey(secret.Hash()), rec)
	})
	if err != nil {
		return api.JoinToken{}, err
	}
	return api.JoinToken{
		Token:   secret.Reveal(),
		ID:      secret.Hash()[:8],
		Name:    rec.Name,
		Node:    rec.Node,
		Expires: rec.Expires,
	}, nil
}

// tokensPerTxn is how many expired tokens, or outdated revocations, one transaction removes.
const tokensPerTxn = 50

// dropTokens removes tokens that expired long ago.
func (a *Admission) dropTokens(t *record.Tx) error {
	entries, err := t.List(record.TokensPrefix, "", 0)
	if err != nil {
		return err
	}
	n := 0
	for _, e := range entries {
		var rec record.Token
		if err := record.Decode(e.Key, e.Value, &rec); err != nil {
			return err
		}
		if n < tokensPerTxn && a.Ledger.Clock.Now().After(rec.Expires.Add(TokenKept)) {
			t.Delete(e.Key)
			n++
		}
	}
	return nil
}

// nodeByName finds a node by its full name. It reads the node with Get, so that the decision depends on it.
func nodeByName(t *record.Tx, name string) (n dataset.Node, ok bool, err error) {
	nodes, err := record.ListAll[dataset.Node](t, record.NodesPrefix)
	if err != nil {
		return n, false, err
	}
	i := slices.IndexFunc(nodes, func(n dataset.Node) bool { return n.Name == name })
	if i < 0 {
		return n, false, nil
	}
	ok, err = t.Get(record.NodeKey(nodes[i].ID), &n)
	return n, ok, err
}

// Join admits a host that has a token. One transaction marks the token as used and records the node. If the same
// request is repeated while the token is valid, Join issues another certificate for the same node.
//
// It fails with dataset.ErrForbidden for a token that is unknown, used or expired, and with ErrRemoved for a node that
// was removed.
// It fails with ErrExists if a node with that name or UUID exists and the token is not for that node. It fails with
// ErrInvalid for an invalid name or request.
func (a *Admission) Join(ctx context.Context, in api.Join) (out api.Joined, err error) {
	secret, err := pki.ParseToken(in.Token)
	if err != nil {
		return out, err
	}
	if err := pki.CheckName(in.Name); err != nil {
		return out, err
	}
	if err := pki.CheckRequest([]byte(in.CSR)); err != nil {
		return out, err
	}
	ca, err := a.authority()
	if err != nil {
		return out, err
	}
	if in.Node == uuid.Nil {
		in.Node = uuid.New()
	}
	_, err = a.Ledger.Update(ctx, func(t *record.Tx) error {
		out.Node, out.Name, err = a.identifyHost(t, secret, in)
		return err
	})
	if err != nil {
		return api.Joined{}, err
	}
	out.Certificate, err = ca.Sign([]byte(in.CSR), pki.Identity{Kind: pki.Node, Node: out.Node, Name: out.Name},
		a.Ledger.Clock.Now())
	return out, err
}

// identifyHost decides which node a joining host becomes.
func (a *Admission) identifyHost(t *record.Tx, secret pki.Token, in api.Join) (uuid.UUID, string, error) {
	var rec record.Token
	key, now := record.TokenKey(secret.Hash()), a.Ledger.Clock.Now()
	known, err := t.Get(key, &rec)
	if err != nil {
		return uuid.Nil, "", err
	}
	sum := sha256.Sum256([]byte(in.CSR))
	request := hex.EncodeToString(sum[:])
	again := "create another: drover node token"
	switch {
	case !known:
		return uuid.Nil, "", dataset.Errorf(dataset.ErrForbidden,
			"join token %s is not from this cluster, or has expired (%s)", secret.Hash()[:8], again)
	case now.After(rec.Expires):
		return uuid.Nil, "", dataset.Errorf(dataset.ErrForbidden,
			"join token %s expired at %s; control's time is %s (%s)", secret.Hash()[:8],
			rec.Expires.Format(time.RFC3339), now.Format(time.RFC3339), again)
	case rec.Used != nil && rec.Used.Request == request:
		return rec.Used.Node, rec.Used.Name, checkNotRemoved(t, rec.Used.Node)
	case rec.Used != nil:
		return uuid.Nil, "", dataset.Errorf(dataset.ErrForbidden,
			"join token %s was used at %s by node %s: a token is valid for one host (%s)", secret.Hash()[:8],
			rec.Used.At.Format(time.RFC3339), rec.Used.Name, again)
	}
	called := in.Name
	if rec.Name != "" {
		in.Name = rec.Name
	}
	if rec.Node != uuid.Nil && rec.Node != in.Node && called != rec.Name {
		return uuid.Nil, "", dataset.Errorf(dataset.ErrForbidden,
			"the token is for node %s, and this host is named %s: create a token for this host (drover node "+
				"token), or join as that node with --node-name %s", rec.Name,
			called, rec.Name)
	}
	if rec.Node != uuid.Nil {
		err = checkReturning(t, rec, in)
		in.Node = rec.Node
	} else {
		err = admitNew(t, in)
	}
	if err != nil {
		return uuid.Nil, "", err
	}
	rec.Used = &record.TokenUse{Node: in.Node, Name: in.Name, Request: request, At: now}
	return in.Node, in.Name, t.Put(key, rec)
}

// checkNotRemoved fails if a node was removed since it joined.
func checkNotRemoved(t *record.Tx, id uuid.UUID) error {
	var n dataset.Node
	ok, err := t.Get(record.NodeKey(id), &n)
	if err == nil && (!ok || !n.Removed.IsZero()) {
		err = RemovedError(id)
	}
	return err
}

// RemovedError is the error for a node that was removed from the cluster.
func RemovedError(id uuid.UUID) error {
	return dataset.Errorf(dataset.ErrRemoved,
		"node %s was removed and cannot return: start the agent with an empty --root, and adopt its pools with "+
			"drover pool adopt", id)
}

// checkReturning fails unless the host is the node that the token names, or may become that node.
func checkReturning(t *record.Tx, rec record.Token, in api.Join) error {
	var n dataset.Node
	known, err := t.Get(record.NodeKey(rec.Node), &n)
	switch {
	case err != nil:
		return err
	case !known || !n.Removed.IsZero():
		return RemovedError(rec.Node)
	case in.Node == rec.Node:
		return nil
	}
	if other, err := t.Get(record.NodeKey(in.Node), &dataset.Node{}); err != nil || other {
		return dataset.Errorf(dataset.ErrExists,
			"the token is for node %s (%s), and this host is node %s, which also exists: create a token for that "+
				"one", rec.Name, rec.Node, in.Node)
	}
	return nil
}

// admitNew records a host as a new node. It fails if the host is or was a node.
func admitNew(t *record.Tx, in api.Join) error {
	var n dataset.Node
	if known, err := t.Get(record.NodeKey(in.Node), &n); err != nil {
		return err
	} else if known && n.Removed.IsZero() {
		return dataset.Errorf(dataset.ErrExists,
			"this host is already node %s (%s): to let it join again, create a token with its name (drover node "+
				"token --name %s)", n.Name, n.ID, n.Name)
	}
	if was, err := t.Get(record.RevokedNodeKey(in.Node), &record.Revocation{}); err != nil {
		return err
	} else if was || !n.Removed.IsZero() {
		return RemovedError(in.Node)
	}
	other, taken, err := nodeByName(t, in.Name)
	if err != nil {
		return err
	}
	if taken {
		return dataset.Errorf(dataset.ErrExists,
			"node %s exists (%s): use another --node-name or, if this host is that node, create a token with its "+
				"name (drover node token --name %s)", in.Name, other.ID, in.Name)
	}
	return t.Put(record.NodeKey(in.Node), dataset.Node{ID: in.Node, Name: in.Name})
}

// Certify issues a certificate for a new key to a recorded node. It fails with dataset.ErrForbidden for a node that is
// not recorded, and with ErrInvalid for an invalid request.
func (a *Admission) Certify(ctx context.Context, node uuid.UUID, r api.Certification) (signed pki.Signed, err error) {
	ca, err := a.authority()
	if err != nil {
		return signed, err
	}
	var n dataset.Node
	known, err := record.NewTx(ctx, a.Ledger.Store).Get(record.NodeKey(node), &n)
	if err == nil && (!known || !n.Removed.IsZero()) {
		err = RemovedError(node)
	}
	if err != nil {
		return signed, err
	}
	return ca.Sign([]byte(r.CSR), pki.Identity{Kind: pki.Node, Node: node, Name: n.Name}, a.Ledger.Clock.Now())
}
