package server

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
)

// FuzzAPIBody sends arbitrary bodies to every endpoint (C7). The answer is well formed, the handler does not
// panic, and the service is called at most once.
func FuzzAPIBody(f *testing.F) {
	service := newFake()
	h := Handler(Deps{Service: service, Local: service, Backup: service, Panicked: func(_ context.Context, request string, v any, stack []byte) {
		panic(request + "\n" + string(stack))
	}})
	nodes := "/v1/nodes/" + uuid.NewString()
	endpoints := []string{
		"/v1/volumes", "/v1/volumes/db/resize", "/v1/volumes/db/set-profile", "/v1/volumes/db/protect", "/v1/volumes/db/import",
		"/v1/volumes/db/upload", "/v1/volumes/db/snapshots", "/v1/snapshots/f23c/restore", "/v1/clones", "/v1/trash/f23c/restore",
		"/v1/pools", "/v1/adoptions", "/v1/pools/x/accept", "/v1/operations", "/v1/operations/f23c/cancel", "/v1/store/rebuild",
		nodes + "/register", nodes + "/plan", nodes + "/commit", nodes + "/record", nodes + "/heartbeat", nodes + "/rebuild",
	}
	op, _ := json.Marshal(api.Report{Operation: sampleOperation()})
	for i := range endpoints {
		for _, body := range []string{
			"", "null", "[]", "{}", "0", `{"volume":"db","options":{"a":"b"}}`, `{"size":"1GiB"}`, `{"protect":null}`, `{"kind":"create","id":"x"}`,
			`{"source":"a","volume":"b","options":null}`, string(op), `[{"pool":"x"}]`, strings.Repeat("[", 10_000), `{"a":` + strings.Repeat("9", 400) + "}",
			"{\"volume\":\"\\ud800\xff\"}", `{"volume":"a","volume":"b","VOLUME":"c"}`,
		} {
			f.Add(uint8(i), body)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		r := httptest.NewRequest("POST", endpoints[int(which)%len(endpoints)], strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		asked := service.take()
		switch {
		case w.Code == 204 && w.Body.Len() == 0 && len(asked) == 1:
		case w.Code == 200 && json.Valid(w.Body.Bytes()) && len(asked) == 1:
		case w.Code >= 400 && w.Code < 500 && len(asked) == 0:
			var p wire.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code != "invalid" || strings.Contains(p.Detail, "\n") || len(p.Detail) > 2000 {
				t.Errorf("%v: %s", err, w.Body)
			}
		default:
			t.Errorf("%d %s, asked %v", w.Code, w.Body, asked)
		}
	})
}
