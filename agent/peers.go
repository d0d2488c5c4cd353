package agent

import (
	"context"
	"net/http"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/internal/requestid"
)

// Peers returns the handler of the requests of other nodes' agents, or nil if this node works alone.
func (a *Agent) Peers() http.Handler {
	if a.Config.PeerHTTP == nil {
		return nil
	}
	h := http.NewServeMux()
	h.Handle("/", a.TransferServer.Handler())
	h.HandleFunc(lease.Path, func(w http.ResponseWriter, r *http.Request) {
		peer, err := a.Config.PeerID(r)
		a.Leases.ServePromise(w, r, peer, err)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The work must end with the request. The values of the request's context describe the connection of the peer,
		// so requests to control must not get them, except the ID of the request.
		ctx, cancel := context.WithCancel(requestid.With(a.Ctx, r.Header.Get(requestid.Header)))
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		if id, err := a.Config.PeerID(r); err == nil { // otherwise the handler reports the error
			ctx = move.WithRequester(ctx, id)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}
