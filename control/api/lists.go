package api

// Page selects a part of a list, which is ordered by names or UUIDs.
type Page struct {
	After string `query:"after" maxLength:"512" doc:"return what comes after this name or UUID"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"how many at most; 0: 1000"`
}

// List is one page of a list. If there are more pages, Next is the After of the next one.
type List[T any] struct {
	Items []T `json:"items"` // the entries of this page
	// value of the parameter after for the next page; empty: this is the last page
	Next string `json:"next,omitempty"`
}
