// What Flux makes of PyTorchJobs: reads spec.healthCheckExprs of a Flux Kustomization (file of the first argument) and a
// JSON list of objects on stdin; prints for each the status. Flux waits on all but Current and Failed.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

type kustomization struct {
	Spec struct {
		HealthCheckExprs []kustomize.CustomHealthCheck `json:"healthCheckExprs"`
	} `json:"spec"`
}

func main() {
	read, objects := kustomization{}, []map[string]any{}
	text, err := os.ReadFile(os.Args[1])
	check(err)
	check(yaml.Unmarshal(text, &read))
	check(json.NewDecoder(os.Stdin).Decode(&objects))

	reader, err := cel.NewStatusReader(read.Spec.HealthCheckExprs)
	check(err)
	statuses := []string{}
	for _, content := range objects {
		result, err := reader(nil).ReadStatusForObject(context.Background(), nil, &unstructured.Unstructured{Object: content})
		check(err)
		if result.Error != nil {
			log.Print(result.Error)
		}
		statuses = append(statuses, result.Status.String())
	}
	check(json.NewEncoder(os.Stdout).Encode(statuses))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
