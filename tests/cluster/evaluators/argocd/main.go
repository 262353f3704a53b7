// What Argo CD makes of PyTorchJobs: reads argocd-cm (file of the first argument) as Argo CD itself reads it, and a JSON
// list of objects on stdin; prints for each the health and the object without the fields that a diff ignores.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/argo-cd/v3/util/settings"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

type verdict struct {
	Status   string         `json:"status"`
	Message  string         `json:"message"`
	Compared map[string]any `json:"compared"`
}

func main() {
	configMap, objects := &corev1.ConfigMap{}, []map[string]any{}
	text, err := os.ReadFile(os.Args[1])
	check(err)
	check(yaml.UnmarshalStrict(text, configMap))
	check(json.NewDecoder(os.Stdin).Decode(&objects))

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "argocd-secret", Namespace: configMap.Namespace}}
	client := fake.NewClientset(configMap, secret)
	overrides, err := settings.NewSettingsManager(context.Background(), client, configMap.Namespace).GetResourceOverrides()
	check(err)
	ignore, err := normalizers.NewIgnoreNormalizer(nil, overrides, normalizers.IgnoreNormalizerOpts{})
	check(err)

	verdicts := []verdict{}
	for _, content := range objects {
		object := &unstructured.Unstructured{Object: content}
		health, err := lua.ResourceHealthOverrides(overrides).GetResourceHealth(object)
		check(err)
		check(ignore.Normalize(object))
		if health == nil {
			log.Fatalf("no health check for %s", object.GroupVersionKind())
		}
		verdicts = append(verdicts, verdict{string(health.Status), health.Message, object.Object})
	}
	check(json.NewEncoder(os.Stdout).Encode(verdicts))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
