package server

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
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
	return dataset.Errorf(dataset.ErrForbidden, "%s may not %s: %s", p, lowerFirst(e.Summary), lacks)
}

// lowerFirst makes a summary the end of a sentence.
func lowerFirst(summary string) string { return strings.ToLower(summary[:1]) + summary[1:] }
