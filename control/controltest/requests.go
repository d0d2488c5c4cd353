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
)

func ErrorOf(_ any, err error) error { return err }

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

// Refused expects an error of a kind, in one short line that says each part.
func Refused(t TB, err error, kind *dataset.Kind, parts ...string) {
	t.Helper()
	expect.Refusal(t, err, kind, parts...)
}

// No returns a pointer to false, yes to true.
func No() *bool { return new(bool) }

func Yes() *bool { b := true; return &b }

func As(id pki.Identity) context.Context {
	return api.WithPrincipal(context.Background(), api.Principal{Identity: id, From: "192.0.2.1:5"})
}

func NodeIdentity(name string, id uuid.UUID) pki.Identity {
	return pki.Identity{Kind: pki.Node, Node: id, Name: name}
}

func Certificate(t *testing.T, ca *pki.Authority, id pki.Identity, now time.Time) *x509.Certificate {
	t.Helper()
	p, err := ca.Issue(id, now)
	if err != nil {
		t.Fatal(err)
	}
	return p.Chain[0]
}

func Move(volume, node string) api.Request {
	return api.Request{Kind: dataset.OpMove, Volume: volume, Node: node}
}

func ForcedMove(volume, node, fenced string) api.Request {
	return api.Request{Kind: dataset.OpMove, Volume: volume, Node: node, Force: true, Fenced: fenced}
}

// Relinquished is the manifest of an operation that its home would make.
func Relinquished(op dataset.Operation) *dataset.Manifest {
	return &dataset.Manifest{Snapshot: uuid.NewSHA1(op.ID, []byte("final")), Bytes: 8, Sum: "ab", Taken: Start}
}

// Waiting calls fn and returns once it has begun to wait; the result comes on the
// channel.
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

type Result[T any] struct {
	V   T
	Err error
}

// KeyAt has profiles.yaml say where the key of a profile is.
func KeyAt(e *Control, profile string, at dataset.KeySource) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision, p.Encryption = profile, profile+" "+at.String(), at
	e.ProfileSet.ByName[profile] = p
}

func WrappedBy(id uuid.UUID, key string) dataset.Encryption {
	return dataset.Encryption{ID: id, KeyID: key, Wrapped: []byte("wrapped by " + key)}
}

func Rekey(volume string) api.Request { return api.Request{Kind: dataset.OpRekey, Volume: volume} }

// Registration is an agent's.
func Registration(node uuid.UUID, boot string, previous ...uuid.UUID) api.Registration {
	return api.Registration{Node: dataset.Node{ID: node, Name: "n1", Incarnation: uuid.New()}, Boot: boot, Previous: previous}
}
