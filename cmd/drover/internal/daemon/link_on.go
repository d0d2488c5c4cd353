//go:build steps

package daemon

import (
	"net/http"
	"os"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
)

// link is the way from the agent to control. With DROVER_AWAY it goes over HTTP, as that
// of an agent far away, and is broken while a file of that name exists.
func link(svc api.Service) (to api.Service, shut func()) {
	file := os.Getenv("DROVER_AWAY")
	if file == "" {
		return svc, func() {}
	}
	handler := server.Handler(server.Deps{Service: svc})
	client := client.NewLoopback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(file); err == nil {
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(w, r)
	}))
	return client, client.Close
}
