package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
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
