package cli

import (
	"context"
	"slices"
	"sync"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
)

// FetchAll reads a list page by page. While it decodes a page, the server already prepares the next one. page must be
// safe for concurrent use.
func FetchAll[T any](ctx context.Context, page func(context.Context, api.Page) (api.List[T], error)) ([]T, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := requestPage(ctx, page, "")
	defer func() {
		cancel()
		r.wait()
	}()
	var pages [][]T
	for {
		<-r.done
		if r.err != nil {
			return nil, r.err
		}
		pages = append(pages, r.list.Items)
		next := r.list.Next
		if next == "" {
			return slices.Concat(pages...), nil
		}
		if next == r.after {
			return nil, dataset.Errorf(dataset.ErrInternal, "list of the server: the next page does not follow "+
				"%q", next)
		}
		if r.ahead == nil || r.ahead.after != next {
			r.wait()
			r.ahead = requestPage(ctx, page, next)
		}
		r = r.ahead
	}
}

// pageRequest is a request for the page of a list after a cursor. The other fields are valid once done is closed.
type pageRequest[T any] struct {
	after string
	done  chan struct{}
	list  api.List[T]
	err   error
	ahead *pageRequest[T] // the request for the page after this one; nil if it was not sent yet
}

// requestPage starts a request. Its owner must call wait.
func requestPage[T any](
	ctx context.Context, page func(context.Context, api.Page) (api.List[T], error), after string,
) *pageRequest[T] {
	r := &pageRequest[T]{after: after, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		var once sync.Once // the client may repeat the call
		ctx := client.WithReadAhead(ctx, func(next string) {
			if next != after { // a list that repeats itself has no end
				once.Do(func() { r.ahead = requestPage(ctx, page, next) })
			}
		})
		r.list, r.err = page(ctx, api.Page{After: after})
	}()
	return r
}

// wait waits for the request and for those that it started.
func (r *pageRequest[T]) wait() {
	for ; r != nil; r = r.ahead {
		<-r.done
	}
}
