package client

import (
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

// TestNewCall: parameters get to their places, and no name changes the path.
func TestNewCall(t *testing.T) {
	id := uuid.MustParse("11111111-2222-4333-8444-555555555555")
	volume := func(name string) call {
		return newCall(endpoint.GetVolume.Endpoint, endpoint.VolumeParam{Volume: name})
	}
	dropped := endpoint.DroppedAlias{VolumeParam: endpoint.VolumeParam{Volume: "{alias}"}, Alias: "a b/c?d%", Force: true}
	upload := endpoint.UploadParams{OperationIDParam: endpoint.OperationIDParam{Operation: id}, VolumeParam: endpoint.VolumeParam{Volume: "db"}, Options: []string{"a=1", "b=2"}}
	for _, c := range []struct {
		call        call
		path, query string
		body        any
	}{
		{volume("db"), "/v1/volumes/db", "", nil},
		{newCall(endpoint.DropAlias.Endpoint, dropped), "/v1/volumes/%7Balias%7D/aliases/a%20b%2Fc%3Fd%25", "force=true", nil},
		{newCall(endpoint.Renew.Endpoint, about(id, api.Renewal{})), "/v1/nodes/" + id.String() + "/renew", "", api.Renewal{}},
		{newCall(endpoint.ListNodes.Endpoint, endpoint.NodePage{Page: api.Page{After: "x", Limit: 5}, Filter: "a b"}), "/v1/nodes", "after=x&filter=a+b&limit=5", nil},
		{newCall(endpoint.UploadVolume.Endpoint, upload), "/v1/volumes/db/upload", "o=a%3D1&o=b%3D2&operation=" + id.String(), nil},
	} {
		if c.call.path != c.path || c.call.query.Encode() != c.query || !reflect.DeepEqual(c.call.body, c.body) || c.call.invalid != nil {
			t.Errorf("%s: %+v", c.path, c.call)
		}
	}
	for _, bad := range []string{"", ".", ".."} {
		if k := volume(bad); dataset.KindOf(k.invalid) != dataset.ErrInvalid {
			t.Errorf("%q: %v", bad, k.invalid)
		}
	}
}
