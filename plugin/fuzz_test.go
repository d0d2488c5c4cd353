package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// refusals are the statuses of requests for which a fake agent that never fails is not called: those that cannot be
// read or are too large, and -o help, which is an error so that it is shown.
var refusals = map[int]bool{http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusInternalServerError: true}

// FuzzPluginRequest sends any body with any call over a socket (C7). The answer is one that the engine understands
// or, only for Get, a broken connection. There is never a panic, and the agent is called at most once.
func FuzzPluginRequest(f *testing.F) {
	calls := []string{"Create", "Remove", "Mount", "Unmount", "Path", "Get", "List", "Capabilities"}
	for i := range calls {
		for _, body := range []string{
			"", "{}", "null", "[]", `{"Name":"db@gold","Opts":{"size":"20GiB"}}`, `{"Name":"db","Opts":null}`, `{"Name":"db","ID":"01"}`,
			`{"Name":null,"ID":5}`, `{"Name":"..","Opts":{"help":"x"}}`, "\x00", `{"Name":"\ud800"}`, strings.Repeat("[", 5000), `{"Name":"` + strings.Repeat("a", 5000) + `"}`,
		} {
			f.Add(uint8(i), body)
		}
	}
	a := &fake{path: "/m"}
	e, _, _ := start(f, a, Options{Panicked: func(_ context.Context, call string, v any, stack []byte) { panic(call + "\n" + string(stack)) }})
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		name := calls[int(which)%len(calls)]
		resp, err := e.http.Post("http://d/VolumeDriver."+name, "", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		asked := a.take()
		var broken net.Error
		switch {
		case name == "Get" && body == "" && errors.As(err, &broken) && len(asked) == 0:
		case err != nil || !json.Valid(text) || len(asked) > 1:
			t.Errorf("%s: %v %s, asked %q", name, err, text, asked)
		case resp.StatusCode == http.StatusOK && !strings.Contains(string(text), `"Err"`):
		case !refusals[resp.StatusCode] || len(asked) > 0 || !strings.HasPrefix(string(text), `{"Err":"drover: `):
			t.Errorf("%s: %s %s, asked %q", name, resp.Status, text, asked)
		}
	})
}
