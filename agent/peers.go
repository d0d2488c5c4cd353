package agent

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/agent/transfer"
)

// Peers returns the handler of the requests of other nodes' agents, or nil if this node works alone.
func (a *Agent) Peers() http.Handler {
	if a.Config.PeerHTTP == nil {
		return nil
	}
	h := http.NewServeMux()
	h.Handle("/", a.Sender.Handler())
	h.Handle(promise.Path, a.Promises)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Of the request's context, only its end applies to requests that this one causes: its values are about
		// this connection, and not about those to control.
		ctx, cancel := context.WithCancel(a.Ctx)
		defer cancel()
		defer context.AfterFunc(r.Context(), cancel)()
		if id, err := a.Config.PeerID(r); err == nil { // otherwise the handler reports the error
			ctx = move.WithAsker(ctx, id)
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a *components) newSender(limit *transfer.Limiter) *transfer.Server {
	return &transfer.Server{
		Source: a.Source, Peer: a.Config.PeerID, Authorize: a.mayGet, Clock: a.Clock, Log: a.Log, Limit: limit,
	}
}

// mayGet fails as Access.Check and Deadlines.Enrol do, before a node is given any data.
func (a *components) mayGet(ctx context.Context, peer, ds uuid.UUID) error {
	if err := a.Access.Check(ctx, peer, ds); err != nil {
		return err
	}
	return a.Deadlines.Enrol(ctx, ds, peer)
}
