//go:build steps

package daemon

import (
	"net/http"
	"os"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/controltest/loopback"
)

// link connects the agent to control. If DROVER_AWAY is set, the connection uses HTTP, as that of a remote agent does,
// and is broken while the file that DROVER_AWAY names exists.
func link(svc api.Service) (to api.Service, shut func()) {
	file := os.Getenv("DROVER_AWAY")
	if file == "" {
		return svc, func() {}
	}
	handler := server.Handler(server.Deps{Service: svc})
	client := loopback.New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(file); err == nil {
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(w, r)
	}))
	return client, client.Close
}
