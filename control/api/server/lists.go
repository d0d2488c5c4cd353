package server

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// A list is read page by page: the parameter after of a request is the value of next in the previous answer. The
// service pages the lists that can be long. The server pages the lists that the service returns as a whole.

// errCursor is the reason why a cursor is refused.
func errCursor(p api.Page) error {
	return dataset.Errorf(dataset.ErrInvalid,
		"bad cursor after=%q: want the value of next in the previous page (read the list from its beginning)",
		dataset.Clip(p.After))
}

// paged answers with a page that the service returns. It refuses a cursor that the list cannot have.
func paged[T any](
	p api.Page, isCursor func(string) bool, get func() (api.List[T], error),
) (l api.List[T], err error) {
	if p.After != "" && !isCursor(p.After) {
		return l, errCursor(p)
	}
	l, err = get()
	if l.Items == nil {
		l.Items = []T{} // an empty list is [] and not null
	}
	return l, err
}

// cutPage answers with a page of a list that the service returned as a whole. cursor returns the cursor of the item
// at an index. If no item has the cursor, the request is refused, because the item may have been removed.
func cutPage[T any](
	p api.Page, items []T, err error, cursor func(i int, item T) string,
) (l api.List[T], _ error) {
	if err != nil {
		return l, err
	}
	from := 0
	for i := range items {
		if p.After != "" && cursor(i, items[i]) == p.After {
			from = i + 1
		}
	}
	if p.After != "" && from == 0 {
		return l, errCursor(p)
	}
	l = api.List[T]{Items: append([]T{}, items[from:]...)}
	if size := p.Size(); len(l.Items) > size {
		l.Items = l.Items[:size]
		l.Next = cursor(from+size-1, l.Items[size-1])
	}
	return l, nil
}

// allItems answers with the whole result of a change, in the form of a list.
func allItems[T any](items []T, err error) (api.List[T], error) {
	if items == nil {
		items = []T{}
	}
	return api.List[T]{Items: items}, err
}

// isName reports whether a volume can have the name.
func isName(after string) bool { return dataset.CheckName(after) == nil }

func isUUID(after string) bool { return uuid.Validate(after) == nil }

// isSnapshot reports whether after is the cursor of a snapshot. Such a cursor ends with a slash and the UUID of the
// snapshot. Before that is the UUID of its dataset, or its time in the list of one dataset.
func isSnapshot(after string) bool {
	_, id, found := strings.Cut(after, "/")
	return found && isUUID(id)
}

// ordinal is the cursor of items without a name: the number of items before the next page.
func ordinal[T any](i int, _ T) string { return strconv.Itoa(i + 1) }

func poolCursor(_ int, p api.Pool) string {
	return p.Node.String() + "/" + p.Name + "/" + p.ID.String()
}

// prefersMinimal reports whether a client prefers summaries, and with health whether they have the fields of an
// assessment.
func prefersMinimal(prefer string) (minimal, health bool) {
	return prefer == wire.Minimal || prefer == wire.MinimalHealth, prefer == wire.MinimalHealth
}

// volumeList is a list of volumes in one of two forms.
type volumeList struct {
	whole     api.List[api.Volume]
	summaries *api.List[api.VolumeSummary] // nil: the answer is whole
}

// Schema implements huma.SchemaProvider. The keys of a summary are some of those of the whole volume.
func (volumeList) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[api.List[api.Volume]](), true, "")
}

// unwrapList is a transformer of huma. It turns a list of volumes into the form that the client prefers.
func unwrapList(hc huma.Context, _ string, v any) (any, error) {
	l, ok := v.(volumeList)
	switch {
	case !ok:
		return v, nil
	case l.summaries == nil:
		return l.whole, nil
	}
	hc.SetHeader("Preference-Applied", hc.Header("Prefer"))
	return *l.summaries, nil
}
