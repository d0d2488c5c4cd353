package promise

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/droverhq/drover/dataset"
)

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 8 << 20

// Ask asks the agent at an address, HOST:PORT, with the node's certificate. It fails with
// ErrOffline when there is no answer: then nothing is promised, though the node may keep
// to a promise that it made. Again: the promise begins anew. Safe for concurrent use.
func Ask(ctx context.Context, rt http.RoundTripper, address string, r Request) (out Answer, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+Path, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return out, dataset.Errorf(dataset.ErrOffline, "promise of the node at %s: %w", address, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, dataset.Errorf(dataset.ErrOffline, "promise of the node at %s: %w", address, err)
	}
	if resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(raw, &out)
	} else {
		var p dataset.Problem
		if json.Unmarshal(raw, &p) != nil || p.Code == "" {
			p = dataset.Problem{Code: dataset.ErrOffline.Code, Message: "it answered with status " + resp.Status}
		}
		err = p.Err()
	}
	if err != nil {
		return Answer{}, fmt.Errorf("promise of the node at %s: %w", address, err)
	}
	return out, nil
}
