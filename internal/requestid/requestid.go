// Package requestid identifies requests and their callers. An operator finds everything that belongs to one request in
// the logs of all hosts, and sees who made the request.
//
// A request of an engine or of the command line gets an ID where it enters Drover: in package plugin, in
// control/api/server, or in the command line. The ID is a value of the request's context. Clients send it to control
// and to the agents of other nodes in the header X-Request-Id, and control stores it in the record of an operation, so
// that the agent that carries out the operation later has the same ID. Log writes the ID as the field "request".
// Background work has no ID. The package has no state.
//
// The name of the caller is another value of the context. The server that receives the request sets it.
// The agent of a host sends it to control in the header X-Drover-By, and control stores it in the record of an
// operation. Only a node is believed: see package control/api/server.
package requestid

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/sirupsen/logrus"
)

const (
	// Header is the HTTP header with the ID, in requests and in answers.
	Header = "X-Request-Id"
	// HeaderBy is the HTTP header with the name of the caller, in requests of agents to control.
	HeaderBy = "X-Drover-By"
	// MaxBy is the maximum length of that name in bytes. Names of nodes and operators have at most 63 bytes.
	MaxBy = 256
	// Schedule is the name of the caller of scheduled requests, and of those of retention.
	Schedule = "schedule"
	// Field is the name of the log field with the ID.
	Field = "request"
	// MaxLength is the maximum length of an ID in bytes.
	MaxLength = 64
)

type key struct{}

type byKey struct{}

// New returns a new random ID of 12 hexadecimal digits.
func New() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// IsValid reports whether an ID of a caller is accepted: at most MaxLength letters, digits, dots, underscores and
// hyphens of ASCII. Other characters could forge fields of a log line.
func IsValid(id string) bool {
	if id == "" || len(id) > MaxLength {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// With returns a context with the ID of a request. If the ID is not valid, With returns ctx.
func With(ctx context.Context, id string) context.Context {
	if !IsValid(id) {
		return ctx
	}
	return context.WithValue(ctx, key{}, id)
}

// Without returns a context that belongs to no request, for background work.
func Without(ctx context.Context) context.Context {
	return context.WithValue(context.WithValue(ctx, key{}, ""), byKey{}, "")
}

// Copy returns ctx with the ID and the caller of the request that from belongs to.
func Copy(ctx, from context.Context) context.Context { return WithBy(With(ctx, Of(from)), By(from)) }

// WithBy returns a context with the name of the caller of the request. If the name is empty, the caller is not known.
func WithBy(ctx context.Context, by string) context.Context {
	return context.WithValue(ctx, byKey{}, by)
}

// By returns who made the request that ctx belongs to, such as "root (uid 0)" or "operator ann". It returns "" for
// background work, and if it is not known.
func By(ctx context.Context) string {
	by, _ := ctx.Value(byKey{}).(string)
	return by
}

// IsValidBy reports whether the name of a caller is accepted: at most MaxBy bytes of printable ASCII, without spaces at
// its ends.
func IsValidBy(by string) bool {
	for i := range len(by) {
		if by[i] < ' ' || by[i] > '~' {
			return false
		}
	}
	return by != "" && len(by) <= MaxBy && strings.TrimSpace(by) == by
}

// SetBy adds the caller of ctx, if it is known, to the header of a request to control.
func SetBy(ctx context.Context, h http.Header) {
	if by := By(ctx); IsValidBy(by) {
		h.Set(HeaderBy, by)
	}
}

// Of returns the ID of the request that ctx belongs to, or "" if there is none.
func Of(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}

// Receive returns the context of a request that a server received. Its ID is the one in the header if that is valid,
// and a new one otherwise.
func Receive(ctx context.Context, h http.Header) context.Context {
	id := h.Get(Header)
	if !IsValid(id) {
		id = New()
	}
	return context.WithValue(ctx, key{}, id)
}

// SetHeader adds the ID of ctx, if there is one, to the header of a request or an answer.
func SetHeader(ctx context.Context, h http.Header) {
	if id := Of(ctx); id != "" {
		h.Set(Header, id)
	}
}

// Log returns a log entry with the ID of ctx, if there is one.
func Log(ctx context.Context, log logrus.FieldLogger) *logrus.Entry {
	if id := Of(ctx); id != "" {
		return log.WithField(Field, id)
	}
	return log.WithFields(nil)
}
