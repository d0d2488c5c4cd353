package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
)

// admit returns the middleware that checks who may use an endpoint, before any of the body is read.
func admit(e endpoint.Endpoint) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		change := changeOf(hc.Context())
		change.start(e, hc.Param)
		if err := allows(e, api.PrincipalOf(hc.Context()), hc.Param("node")); err != nil {
			refuse(hc, err)
			return
		}
		next(hc)
	}
}

// handlePlain registers an endpoint that is not in the OpenAPI document, and checks who may use it.
func handlePlain(mux *http.ServeMux, pattern string, e endpoint.Endpoint, next http.Handler) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := allows(e, api.PrincipalOf(r.Context()), ""); err != nil {
			wire.ProblemOf(err).Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allows returns ErrForbidden if the principal may not use the endpoint. node is the node that the path names, or
// empty.
func allows(e endpoint.Endpoint, p api.Principal, node string) error {
	var lacks string
	access := e.Access
	switch {
	case p.Local, access.Anonymous:
		return nil
	case p.Kind == pki.Operator && access.Role == "":
		lacks = "only agents do that, each for its own node"
	case p.Kind == pki.Operator:
		if p.Role.Covers(access.Role) {
			return nil
		}
		lacks = fmt.Sprintf("this requires the role %s (drover ca issue --role %s creates a certificate)",
			access.Role, access.Role)
	case p.Kind == pki.Node && access.Nodes == endpoint.OwnNode:
		if p.Node.String() == strings.ToLower(node) {
			return nil
		}
		lacks = fmt.Sprintf("an agent acts only for its own node, and this is node %s (if the host is a copy of "+
			"another, have it join separately)", dataset.Clip(node))
	case p.Kind == pki.Node && access.Nodes == endpoint.AnyNode:
		return nil
	case p.Kind == pki.Node:
		lacks = "that is not for agents (" + api.AskControl + ")"
	case p.Kind == "":
		return pki.ErrNoCertificate
	default:
		lacks = "that is for operators and agents"
	}
	return dataset.Errorf(dataset.ErrForbidden, "%s may not %s: %s", p,
		strings.ToLower(e.Summary[:1])+e.Summary[1:], lacks)
}

// identify returns the principal of a request. A request whose context has no local address was not received by an
// http.Server, so it comes from this process.
func (g *frontHandler) identify(r *http.Request) (api.Principal, error) {
	addr, served := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	switch {
	case r.TLS != nil:
		p := api.Principal{From: r.RemoteAddr}
		if g.peer == nil {
			return p, dataset.Errorf(dataset.ErrForbidden, "this address accepts no requests")
		}
		var err error
		p.Identity, err = g.peer(*r.TLS)
		return p, err
	case !served:
		return api.PrincipalOf(r.Context()), nil
	case addr.Network() == "unix":
		user, _ := r.Context().Value(userKey{}).(string)
		return api.Principal{Local: true, From: cmp.Or(user, "user")}, nil
	}
	return api.Principal{From: r.RemoteAddr}, dataset.Errorf(dataset.ErrForbidden,
		"the API requires TLS: use https:// (on the host itself, unix:///run/drover/drover.sock)")
}

// withRequestID returns the context of a request with its ID. A request of an agent or of control has an ID only if
// the caller sent one: their background work has none.
func withRequestID(ctx context.Context, who api.Principal, h http.Header) context.Context {
	if isProgram(who) {
		return requestid.With(ctx, h.Get(requestid.Header))
	}
	return requestid.Receive(ctx, h)
}

// withBy returns the context of a request with the name of whoever made it. It is the user of the socket, or the holder
// of the certificate. The agent of a node sends the name in a header, and nobody else can: the header of another
// caller is ignored.
func withBy(ctx context.Context, who api.Principal, h http.Header) context.Context {
	switch {
	case who.Kind == pki.Node:
		return requestid.WithBy(ctx, onNode(h.Get(requestid.HeaderBy), who.Name))
	case isProgram(who): // a call within this process keeps the name that its context has
		return ctx
	case who.Local:
		return requestid.WithBy(ctx, userName(who.From))
	case who.Kind == "":
		return requestid.WithBy(ctx, "")
	}
	return requestid.WithBy(ctx, string(who.Kind)+" "+who.Name)
}

// onNode adds the name of a node to the name of the user who made a request there, which the node's agent sends. So a
// compromised node cannot claim that the request was made elsewhere. It returns "" for the requests that the agent
// makes on its own account, and for an invalid name. It is a pure function.
func onNode(by, node string) string {
	at := " on " + node
	switch {
	case !requestid.IsValidBy(by):
		return ""
	case strings.HasSuffix(by, at): // the agent has the name from an operation that control has planned
		return by
	}
	return by + at
}

// userName returns the name of a user of this host for whom withUser has noted "uid UID": "root (uid 0)". If the name
// of the user is not in /etc/passwd, userName returns the UID.
func userName(from string) string {
	uid, ok := strings.CutPrefix(from, "uid ")
	if !ok {
		return "local user"
	}
	if uid == "0" { // most callers are root
		return "root (uid 0)"
	}
	u, err := user.LookupId(uid)
	if err != nil || !requestid.IsValidBy(u.Username) {
		return from
	}
	return u.Username + " (" + from + ")"
}

// isProgram reports whether the caller is a part of Drover: an agent, control, or this process.
func isProgram(who api.Principal) bool {
	return who.Kind == pki.Node || who.Kind == pki.Control || who.Local && who.From == ""
}

type userKey struct{}

// withUser adds to the context which user of this host opened the connection (SO_PEERCRED, unix(7)).
func withUser(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, userKey{}, fmt.Sprintf("uid %d", cred.Uid))
}

// Peer identifies the other end of a TLS connection. (*pki.Credentials).VerifyPeer implements it.
type Peer func(cs tls.ConnectionState, kinds ...pki.Kind) (pki.Identity, error)
