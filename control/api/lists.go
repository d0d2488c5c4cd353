package api

// Page selects a part of a list.
type Page struct {
	After string `query:"after" maxLength:"512" doc:"the value of next in the previous page; absent: the first page"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"the maximum number of items; 0: 1000"`
	// Health asks VolumeSummaries for the fields that only an assessment of the volumes needs. Other lists ignore it.
	Health bool `json:"-"`
}

// MaxPage is the maximum number of items in one page of a list.
const MaxPage = 1000

// Size returns the maximum number of items in the page.
func (p Page) Size() int {
	if p.Limit <= 0 || p.Limit > MaxPage {
		return MaxPage
	}
	return p.Limit
}

// List is one page of a list. If there are more pages, Next is the value of Page.After for the next page.
type List[T any] struct {
	Items []T `json:"items"` // the entries of this page
	// value of the parameter after for the next page; empty: this is the last page
	Next string `json:"next,omitempty"`
}
