package controltest

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

// ErrorOf returns the error of a call without its result.
func ErrorOf(_ any, err error) error { return err }

// Create returns the request to create a volume. The options have the form KEY=VALUE.
func Create(spec string, options ...string) api.Request {
	req := api.Request{Kind: dataset.OpCreate, Volume: spec}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		if req.Options == nil {
			req.Options = map[string]string{}
		}
		req.Options[k] = v
	}
	return req
}

// Refused fails the test unless err is of the kind, is one short line, and contains each of the parts.
func Refused(t TB, err error, kind *dataset.Kind, parts ...string) {
	t.Helper()
	expect.Refusal(t, err, kind, parts...)
}

// No returns a pointer to false.
func No() *bool { return new(bool) }

// Yes returns a pointer to true.
func Yes() *bool { b := true; return &b }

// As returns a context in which requests come from a principal with the identity.
func As(id pki.Identity) context.Context {
	return api.WithPrincipal(context.Background(), api.Principal{Identity: id, From: "192.0.2.1:5"})
}

// NodeIdentity returns the identity in the certificate of a node.
func NodeIdentity(name string, id uuid.UUID) pki.Identity {
	return pki.Identity{Kind: pki.Node, Node: id, Name: name}
}

// Certificate issues a certificate.
func Certificate(t *testing.T, ca *pki.Authority, id pki.Identity, now time.Time) *x509.Certificate {
	t.Helper()
	p, err := ca.Issue(id, now)
	require.NoError(t, err)
	return p.Chain[0]
}

// Move returns the request to move a volume to a node.
func Move(volume, node string) api.Request {
	return api.Request{Kind: dataset.OpMove, Volume: volume, Node: node}
}

// ForcedMove returns the request to move a volume without its home, which the caller confirms to be fenced.
func ForcedMove(volume, node, fenced string) api.Request {
	return api.Request{Kind: dataset.OpMove, Volume: volume, Node: node, Force: true, Fenced: fenced}
}

// Rename returns the request to give a volume another name.
func Rename(volume, name string) api.Request {
	return api.Request{Kind: dataset.OpRename, Volume: volume, Name: name}
}

// DropAlias returns the request to end an alias of a volume.
func DropAlias(volume, alias string) api.Request {
	return api.Request{Kind: dataset.OpDropAlias, Volume: volume, Name: alias}
}

// Relinquished returns the manifest with which the home of a volume answers a recall.
func Relinquished(op dataset.Operation) *dataset.Manifest {
	return &dataset.Manifest{Snapshot: uuid.NewSHA1(op.ID, []byte("final")), Bytes: 8, SHA256: "ab", Taken: Start}
}

// Waiting calls fn and returns once fn has begun to wait. The result comes on the channel.
func Waiting[T any](e *Control, fn func() (T, error)) <-chan Result[T] {
	e.Helper()
	done := make(chan Result[T], 1)
	e.Clock.Waiting = make(chan struct{}, 1)
	go func() {
		v, err := fn()
		done <- Result[T]{v, err}
	}()
	<-e.Clock.Waiting
	e.Clock.Waiting = nil
	return done
}

// Result is the result of a call.
type Result[T any] struct {
	V   T
	Err error
}

// KeyAt adds a profile whose volumes are encrypted. at is the source of the key that wraps their data keys.
func KeyAt(e *Control, profile string, at dataset.KeySource) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision, p.Encryption = profile, profile+" "+at.String(), at
	e.ProfileSet.ByName[profile] = p
}

// WrappedBy returns a data key that is wrapped by a key.
func WrappedBy(id uuid.UUID, key string) dataset.Encryption {
	return dataset.Encryption{ID: id, KeyID: key, Wrapped: []byte("wrapped by " + key)}
}

// Rekey returns the request to wrap the data key of a volume again.
func Rekey(volume string) api.Request { return api.Request{Kind: dataset.OpRekey, Volume: volume} }

// Registration returns the registration of a node on a boot, after earlier incarnations.
func Registration(node uuid.UUID, boot string, previous ...uuid.UUID) api.Registration {
	n := dataset.Node{ID: node, Name: "n1", Incarnation: uuid.New()}
	return api.Registration{Node: n, BootID: boot, PreviousIncarnations: previous}
}
