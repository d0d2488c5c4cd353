package server

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// rule says who may use an endpoint. Callers on this host may use all of them.
type rule struct {
	role      pki.Role // operators with this role or a higher one; empty: no operator
	node      reach    // which nodes
	anonymous bool     // also callers without a certificate
	quiet     bool     // the request decides nothing new, so the audit log has no line for it
	exports   bool     // reads a whole volume or the store, so the audit log has a line for it
}

// reach says which nodes may use an endpoint.
type reach int

const (
	noNode  reach = iota
	ownNode       // only the node whose UUID is in the path
	anyNode
)

// ruleOf returns the rule of an endpoint by its operation ID. An endpoint without a rule is forbidden to all callers.
// This is only the first check: control also compares the content of a request with the principal.
func ruleOf(id string) (r rule, known bool) {
	switch id {
	case "list-volumes", "get-volume", "list-snapshots", "get-snapshot", "list-trash", "list-profiles", "get-profile",
		"list-pools", "list-nodes", "list-operations", "get-operation", "get-events", "get-version", "get-trust",
		"get-failover", "get-health", "diff-snapshot", "measure-snapshot", "list-repositories", "get-repository":
		return rule{role: pki.Viewer, node: anyNode}, true
	case "get-openapi":
		return rule{role: pki.Viewer, node: anyNode}, true
	case "doctor", "list-volume-io", "list-holders", "get-metrics":
		return rule{role: pki.Viewer}, true
	case "submit-operation", "cancel-operation", "create-volume", "delete-volume", "resize-volume", "rekey-volume",
		"rewrite-volume", "back-up-volume", "push-volume", "verify-backup", "set-volume-profile", "rename-volume",
		"drop-alias",
		"protect-volume", "import-volume", "create-snapshot", "delete-snapshot", "restore-snapshot", "create-clone",
		"restore-trash", "purge-trash", "empty-trash":
		return rule{role: pki.Worker, node: anyNode}, true
	case "list-backups", "get-backup", "list-versions":
		return rule{role: pki.Worker}, true
	case "export-volume":
		return rule{role: pki.Worker, exports: true}, true
	case "backup-store":
		return rule{role: pki.Admin, exports: true}, true
	case "upload-volume":
		return rule{role: pki.Worker}, true
	case "create-pool", "adopt-pool", "accept-pool", "set-pool", "remove-pool", "collect", "rebuild-store",
		"recover-store",
		"cordon-node", "label-node", "fence-node",
		"make-token", "remove-node", "revoke-operator", "add-repository", "remove-repository",
		"check-repository", "remove-backup", "prune-repository",
		"preview-remove-pool", "preview-collect", "preview-remove-node":
		return rule{role: pki.Admin}, true
	case "plan", "heartbeat", "sync", "facts", "renew", "generations", "hold":
		return rule{node: ownNode, quiet: true}, true
	case "register-node", "commit", "record", "rebuild", "recall", "yield", "copied", "guest",
		"certify":
		return rule{node: ownNode}, true
	case "join":
		return rule{anonymous: true}, true
	}
	return rule{}, false
}

// admit returns the middleware that checks the rule of an endpoint, before any of the body is read.
func admit(op huma.Operation) func(huma.Context, func(huma.Context)) {
	rule, known := ruleOf(op.OperationID)
	return func(hc huma.Context, next func(huma.Context)) {
		p, change := api.PrincipalOf(hc.Context()), changeOf(hc.Context())
		change.start(op, hc.Param, rule)
		err := rule.allows(p, hc.Param("node"), op.Summary)
		if !known {
			err = noRuleError(p, op.Summary)
		}
		if err != nil {
			change.noteError(err)
			_, w := humago.Unwrap(hc)
			wire.ProblemOf(err).Write(w)
			return
		}
		next(hc)
	}
}

// handlePlain registers an endpoint that is not in the OpenAPI document, and checks its rule.
func handlePlain(mux *http.ServeMux, pattern, id, what string, next http.Handler) {
	rule, known := ruleOf(id)
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		p := api.PrincipalOf(r.Context())
		err := rule.allows(p, "", what)
		if !known {
			err = noRuleError(p, what)
		}
		if err != nil {
			wire.ProblemOf(err).Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func noRuleError(p api.Principal, what string) error {
	return dataset.Errorf(dataset.ErrForbidden, "%s may not %s: no rule allows it", p, lowerFirst(what))
}

// allows returns ErrForbidden if the principal may not use the endpoint. node is the node that the path names, or
// empty.
func (r rule) allows(p api.Principal, node, what string) error {
	var lacks string
	switch {
	case p.Local, r.anonymous:
		return nil
	case p.Kind == pki.Operator && r.role == "":
		lacks = "only agents do that, each for its own node"
	case p.Kind == pki.Operator:
		if p.Role.Covers(r.role) {
			return nil
		}
		lacks = fmt.Sprintf("this requires the role %s (drover ca issue --role %s creates a certificate)",
			r.role, r.role)
	case p.Kind == pki.Node && r.node == ownNode:
		if p.Node.String() == strings.ToLower(node) {
			return nil
		}
		lacks = fmt.Sprintf("an agent acts only for its own node, and this is node %s (if the host is a copy of "+
			"another, have it join separately)", dataset.Clip(node))
	case p.Kind == pki.Node && r.node == anyNode:
		return nil
	case p.Kind == pki.Node:
		lacks = "that is not for agents (" + api.AskControl + ")"
	case p.Kind == "":
		return pki.ErrNoCertificate
	default:
		lacks = "that is for operators and agents"
	}
	return dataset.Errorf(dataset.ErrForbidden, "%s may not %s: %s", p, lowerFirst(what), lacks)
}

// lowerFirst makes a summary the end of a sentence.
func lowerFirst(summary string) string {
	if summary == "" {
		return "do this"
	}
	return strings.ToLower(summary[:1]) + summary[1:]
}
