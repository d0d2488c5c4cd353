package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// BenchmarkHandler measures the calls that an agent makes for every volume, for the handler only and with the
// client.
func BenchmarkHandler(b *testing.B) {
	f := newFake()
	h := Handler(Deps{Service: f, Local: f, Backup: f})
	node := uuid.MustParse("4b1d8a5e-3c55-4c07-8c6a-0d2f8a1c9e01").String()
	op := sampleOperation()
	for _, c := range []struct {
		name, method, path string
		body               any
	}{
		{"plan", http.MethodPost, "/v1/nodes/" + node + "/plan", api.Request{ID: op.ID, Kind: dataset.OpCreate, Volume: "db@gold", Options: map[string]string{"size": "20GiB"}}},
		{"commit", http.MethodPost, "/v1/nodes/" + node + "/commit", api.Report{Incarnation: op.Incarnation, Operation: op}},
		{"heartbeat", http.MethodPost, "/v1/nodes/" + node + "/heartbeat", api.Heartbeat{Incarnation: op.Incarnation, Datasets: []dataset.DatasetStatus{{ID: op.DatasetID, Mounted: true}}}},
		{"sync", http.MethodGet, "/v1/nodes/" + node + "/sync?rev=7&wait=30s", nil},
		{"volume", http.MethodGet, "/v1/volumes/db", nil},
	} {
		var body []byte
		if c.body != nil {
			body, _ = json.Marshal(c.body)
		}
		b.Run("handler/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(c.method, c.path, bytes.NewReader(body))
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code >= 300 {
					b.Fatalf("%d: %s", w.Code, w.Body)
				}
			}
		})
	}
	c := loopback.New(h)
	defer c.Close()
	ctx := context.Background()
	id := uuid.MustParse(node)
	for _, k := range []struct {
		name string
		call func() error
	}{
		{"plan", func() error {
			_, err := c.Plan(ctx, id, api.Request{ID: op.ID, Kind: dataset.OpCreate, Volume: "db@gold", Options: map[string]string{"size": "20GiB"}})
			return err
		}},
		{"commit", func() error {
			_, err := c.Commit(ctx, id, api.Report{Incarnation: op.Incarnation, Operation: op})
			return err
		}},
		{"sync", func() error { _, err := c.Sync(ctx, id, 7, 30*time.Second); return err }},
		{"volume", func() error { _, err := c.Volume(ctx, "db"); return err }},
	} {
		b.Run("loopback/"+k.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, k.call())
			}
		})
	}
}

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
